"""No attack earns a reward, every honest program does, and this machine is afterwards as it was before.

The fast selection takes some rows of each category; `-m slow` takes all of them, in both local backends.
"""

import asyncio
import shutil
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from rlvr.protocols import Limits
from rlvr.records import Verdict
from rlvr.registry import SANDBOXES, build_sandbox, find, load
from tests.contract.code_suite import Host, planted_host, read_rows, reference_of, verify_rows, wrong_verdicts

ATTACKS, HONEST = read_rows("attacks"), read_rows("honest")
KINDS = {
    "early_exit", "eq_override", "patched_builtins", "read_answers", "stdout_spoof", "forged_frames", "walks",
    "pickles", "host_files", "background", "resources", "network", "signals", "clock", "leaks",
}  # fmt: skip
# what a backend cannot give, so that an honest program that needs it fails there
LACKS = {"namespaces": set[str](), "landlock": {"dev_shm"}}
BACKENDS = pytest.mark.parametrize("backend", ["namespaces", "landlock"])


def need(backend: str) -> None:
    """Skips where this machine lacks what the backend requires."""
    missing = [p for p in load(find(SANDBOXES, backend)).probes() if p.is_required and not p.is_ok]
    if missing:
        pytest.skip(f"{backend}: {missing[0].name}: {missing[0].detail}; {missing[0].fix}")


def usable(rows: Sequence[dict[str, Any]], backend: str) -> list[dict[str, Any]]:
    """The rows whose needs the backend and this machine meet."""
    lacks = LACKS[backend] | (set() if shutil.which("g++") else {"g++"})
    return [row for row in rows if row.get("needs") not in lacks]


def verify_in(backend: str, rows: Sequence[dict[str, Any]]) -> tuple[list[Verdict], list[str], list[str]]:
    """(verdicts, side effects of rows, changes of the host) of the rows in a fresh sandbox with two slots."""

    async def verify(host: Host) -> tuple[list[Verdict], list[str]]:
        sandbox = build_sandbox(backend, {"slots": 2})
        await sandbox.start()
        try:
            verdicts = await verify_rows(sandbox, rows)
            after = await sandbox.run(("python", "m.py"), {"m.py": b"print(1)"}, b"", Limits())
            assert after.stdout == b"1\n"  # whatever they did, the boxes still work
        finally:
            await sandbox.close()
        return verdicts, [effect for row in rows for effect in host.effects_of(row)]

    with planted_host() as host:
        verdicts, effects = asyncio.run(verify(host))
        return verdicts, effects, host.changes()


def test_the_suite_covers_every_kind_and_names_each_row_once() -> None:
    assert set(Counter(row["category"] for row in ATTACKS)) == KINDS
    assert min(Counter(row["category"] for row in ATTACKS).values()) >= 5
    assert len(ATTACKS) >= 130
    assert len(HONEST) >= 60
    ids = [row["id"] for row in (*ATTACKS, *HONEST)]
    assert len(set(ids)) == len(ids)
    assert not any(row["expected_pass"] for row in ATTACKS)
    assert all(row["expected_pass"] for row in HONEST)


def is_quick(row: dict[str, Any]) -> bool:
    """Rows that do not wait for a time limit: those lower their wall limit, or sleep."""
    return row["limits"]["wall_s"] == 6 and "sleep" not in row["completion"]


@BACKENDS
def test_some_attacks_of_each_kind_earn_nothing_and_honest_programs_pass(backend: str) -> None:
    need(backend)
    quick = [row for row in ATTACKS if is_quick(row)]
    chosen = [row for kind in sorted(KINDS) for row in [r for r in quick if r["category"] == kind][::3]]
    rows = usable([*chosen, *[row for row in HONEST if is_quick(row)][::3]], backend)
    verdicts, effects, changes = verify_in(backend, rows)
    assert wrong_verdicts(rows, verdicts) == []
    assert effects == []
    assert changes == []


@pytest.mark.slow
@BACKENDS
def test_no_attack_earns_anything_every_honest_program_passes_and_the_host_is_unchanged(backend: str) -> None:
    need(backend)
    rows = usable([*ATTACKS, *HONEST], backend)
    verdicts, effects, changes = verify_in(backend, rows)
    assert wrong_verdicts(rows, verdicts) == []
    assert effects == []
    assert changes == []
    for row, verdict in zip(rows, verdicts, strict=True):
        assert verdict.seconds < row.get("max_seconds", 60), row["id"]


NAIVE = """
import sys
source, tests = open("code.py").read(), open("tests.py").read()
space = {"__name__": "__main__"}
exec(compile(source, "code.py", "exec"), space)
exec(compile(tests, "tests.py", "exec"), space)
"""


@pytest.mark.slow
def test_a_harness_that_compares_where_the_program_runs_is_fooled_by_many_attacks() -> None:
    """The attacks have teeth: inside a box, exec of program and asserts in one process, exit code 0 is a pass."""
    need("namespaces")
    rows = [row for row in ATTACKS if row["kind"] == "function" and row["limits"]["wall_s"] == 6]

    async def fooled() -> list[str]:
        sandbox = build_sandbox("namespaces", {"slots": 2})

        async def is_fooled(row: dict[str, Any]) -> bool:
            reference = reference_of(row)
            tests = "\n".join([reference.get("setup", ""), *reference.get("asserts", [])])
            if "test" in reference:
                tests = f"{reference['test']}\ncheck({reference['entry_point']})\n"
            files = {"main.py": NAIVE.encode(), "code.py": row["completion"].encode(), "tests.py": tests.encode()}
            result = await sandbox.run(("python", "main.py"), files, b"", Limits(wall_s=6.0))
            return result.is_clean

        try:
            found = await asyncio.gather(*(is_fooled(row) for row in rows))
        finally:
            await sandbox.close()
        return [row["id"] for row, was in zip(rows, found, strict=True) if was]

    assert len(asyncio.run(fooled())) >= 40
