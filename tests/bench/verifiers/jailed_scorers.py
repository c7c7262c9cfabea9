"""Scorers of reasoning-gym that execute the policy's text, jailed: what reaches the machine, and what the jail costs.

Verifies hostile and honest completions of nine data sets whose scorers evaluate them, in a jail of each local backend;
then compares files, processes, sockets and control groups of the machine with those before, and the honest verdicts
with those of a direct call. Then the rate of the same honest items: jailed, in a plain worker, and called directly;
and that of `math`. Needs an interpreter with reasoning-gym 0.1.25 and pydantic, of this Python's version:

    python3.11 -m venv .venvs/gym && .venvs/gym/bin/pip install reasoning-gym==0.1.25 pydantic
    python tests/bench/verifiers/jailed_scorers.py --python .venvs/gym/bin/python [--items 10000] [--backend landlock]
"""

import argparse
import importlib
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from rlvr.plugin import completion_from_text
from rlvr.records import Check, Execution, Prompt, Status, Verdict
from rlvr.verification.service import VerifierService

TASKS = (
    "binary_matrix", "countdown", "intermediate_integration", "n_queens", "polynomial_multiplication", "puzzle24",
    "simple_integration", "spiral_matrix", "string_insertion",
)  # fmt: skip
SCORER = '''
from functools import cache
from rlvr.plugin import verifier

@cache
def scorer(task):
    import reasoning_gym
    return reasoning_gym.create_dataset(task, size=1, seed=1)

class Gym:
    """The package's own scorer."""
    from rlvr.plugin import EmptyConfig as Config
    from rlvr.protocols import Execution
    name, version, execution = "gym", "1", Execution.PROCESS

    def __init__(self, config, context):
        pass

    def warm_up(self):
        for task in %r:
            scorer(task)

    def verify(self, prompt, completion):
        from rlvr.plugin import verdict
        from rlvr.records import Status
        entry = prompt.reference
        try:
            score = float(scorer(entry["task"]).score_answer(completion.text, entry["entry"]))
        except Exception as error:
            return verdict(self, Status.UNPARSED, type(error).__name__)
        score = min(1.0, max(0.0, score))
        return verdict(self, Status.PASS if score == 1.0 else Status.FAIL, "", score=score)
''' % (TASKS,)  # fmt: skip  # noqa: UP031 - the text has braces
CHUNK = 500


def entries(per_task: int) -> list[dict[str, Any]]:
    """Entries of each task, as references."""
    gym = importlib.import_module("reasoning_gym")
    found: list[dict[str, Any]] = []
    for task in TASKS:
        for entry in gym.create_dataset(task, size=per_task, seed=7):
            found.append({"task": task, "entry": json.loads(json.dumps(entry, default=str))})
    return found


def payloads(folder: str, marker: str, forge: str) -> list[str]:
    """Python expressions that try to change the machine, to leave something, to see a secret or to win."""
    there = f"{folder}/file"
    system = "__import__('os').system"
    daemon = f"setsid sh -c 'sleep 600 # {marker}' >/dev/null 2>&1 </dev/null &"
    code = {
        "exec": f"open({there!r}, 'w').write('x')",
        "tmp": f"open('/tmp/{marker}', 'w').write('x')",
        "shell": f"{system}('touch {folder}/shell /tmp/{marker}-shell')",
        "packages": "open(__import__('sympy').__file__ + '.evil', 'w')",
        "home": f"open(__import__('os').path.expanduser('~') + '/{marker}', 'w')",
        "passwd": f"open({there!r}, 'w').write(open('/etc/passwd').read())",
        "secret": f"open({there!r}, 'w').write(str(dict(__import__('os').environ)))",
        "daemon": f'{system}("{daemon}")',
        "fork": f"__import__('os').fork() or __import__('os').execvp('sh', ['sh', '-c', 'sleep 600 # {marker}'])",
        "connection": "__import__('socket').create_connection(('127.0.0.1', 9), 1)",
        "listener": "globals().setdefault('s', __import__('socket').create_server(('0.0.0.0', 0)))",
        "parents": "[__import__('os').kill(p, 9) for p in (__import__('os').getppid(), 1)]",
        "everybody": "__import__('os').kill(-1, 9)",
        "disk": "[open('f%d' % i, 'wb').write(bytes(1 << 24)) for i in range(400)]",
        "memory": "bytearray(1 << 36)",
        "thread": "__import__('threading').Thread(target=__import__('time').sleep, args=(600,)).start()",
        "exit": "__import__('os')._exit(0)",
        "forge": forge,
    }
    return list(code.values())


FORGE = (
    "[setattr(type(m), 'score_answer', lambda *a, **k: 1.0) for m in __import__('gc').get_objects() "
    "if hasattr(type(m), 'score_answer') and not isinstance(m, type)]"
)


class Machine:
    """What of this machine a jailed item could change."""

    def __init__(self, folder: Path, packages: Path, marker: str) -> None:
        self._folder, self._packages, self._marker = folder, packages, marker
        self._before = self._look()

    def _look(self) -> dict[str, set[str]]:
        home = Path.home()
        groups = Path("/sys/fs/cgroup")
        return {
            "files of the open folder": {str(p) for p in self._folder.rglob("*")},
            "files of /tmp": {str(p) for p in Path("/tmp").glob(f"*{self._marker}*")},
            "folders of jails": {str(p) for p in Path(tempfile.gettempdir()).glob("rlvr-box-*")},
            "files of the packages": {str(p) for p in self._packages.rglob("*.evil*")},
            "files of the home folder": {str(p) for p in home.glob(f"*{self._marker}*")},
            "processes": set(self._processes()),
            "control groups": {str(p) for p in groups.glob(f"**/rlvr-box-{os.getpid()}-*")},
            "sockets": self._sockets(),
        }

    def _processes(self) -> list[str]:
        found: list[str] = []
        for name in os.listdir("/proc"):
            if name.isdigit() and int(name) != os.getpid():
                try:
                    line = Path(f"/proc/{name}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                except OSError:
                    continue
                if self._marker in line:
                    found.append(f"{name} {line}")
        return found

    @staticmethod
    def _sockets() -> set[str]:
        """Sockets of the users of jails, which are those of this user where there are none."""
        found: set[str] = set()
        for kind in ("tcp", "tcp6", "udp", "udp6"):
            for line in Path(f"/proc/net/{kind}").read_text(encoding="ascii").splitlines()[1:]:
                words = line.split()
                if 60_000 <= int(words[7]) < 64_000:
                    found.add(f"{kind} {words[1]} {words[2]}")
        return found

    def changes(self) -> dict[str, int]:
        """The number of new things of each kind."""
        now = self._look()
        return {kind: len(now[kind] - self._before[kind]) for kind in now}


def verify(service: VerifierService, check: Check, items: list[tuple[Any, str]]) -> list[Verdict]:
    """The verdicts, in order."""
    found: list[Verdict] = []
    for start in range(0, len(items), CHUNK):
        pairs = []
        for reference, text in items[start : start + CHUNK]:
            own = Check(**{f: getattr(check, f) for f in check.__slots__} | {"reference": reference})
            prompt = Prompt(prompt_id="row", text="?", checks=(own,), source="bench")
            pairs.append((prompt, completion_from_text(text, prompt_id="row")))
        found += [verdict[check.name] for verdict in service.verify_batch(pairs)]
    return found


def scorer_file(folder: Path) -> str:
    """The verifier, by its name."""
    file = folder / "gym_scorer.py"
    file.write_text(SCORER, encoding="utf-8")
    return f"{file}:Gym"


def direct(items: list[tuple[Any, str]], name: str) -> tuple[list[tuple[Status, float | None]], float]:
    """(status and score of each honest item, items a second) of the scorer called here."""
    from rlvr.plugin import VerifierContext
    from rlvr.registry import VERIFIERS, build_verifier, find

    verifier = build_verifier(find(VERIFIERS, name), {}, VerifierContext())
    verifier.warm_up()  # type: ignore[attr-defined]
    prompts = [
        Prompt(prompt_id="row", text="?", checks=(Check(name="m", verifier="gym", reference=r),), source="bench")
        for r, _ in items
    ]
    completions = [completion_from_text(text, prompt_id="row") for _, text in items]
    start = time.perf_counter()
    found: list[Any] = [verifier.verify(p, c) for p, c in zip(prompts, completions, strict=True)]
    seconds = time.perf_counter() - start
    return [(v.status, v.score) for v in found], len(items) / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", required=True)
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--rate-items", type=int, default=700, help="0: none")
    parser.add_argument("--backend", choices=("namespaces", "landlock"), action="append")
    given = parser.parse_args()
    packages = Path(given.python).parent.parent / f"lib/python3.{sys.version_info.minor}/site-packages"
    sys.path.append(str(packages))
    os.environ["A_SECRET"] = "xyzzy"
    rng = random.Random(5)
    rows = entries(40)
    gold = [(row, str(row["entry"]["answer"])) for row in rows if row["entry"]["answer"] is not None]
    wrong = [(row, rng.choice(gold)[1]) for row in rows]
    honest = [item for pair in zip(gold, wrong, strict=False) for item in pair]
    with tempfile.TemporaryDirectory(prefix="jailed-bench-") as text:
        folder = Path(text)
        folder.chmod(0o777)
        name = scorer_file(folder)
        backends = given.backend or ["namespaces", "landlock"]
        if given.rate_items:
            rates(backends, given.python, name, honest, given.rate_items)
        for backend in backends:
            hostile(backend, given.python, name, folder, packages, rows, honest, given.items)


def rates(backends: list[str], python: str, name: str, honest: list[tuple[Any, str]], count: int) -> None:
    """Prints the rate of each way to run the same distinct items, and whether the verdicts are the same."""
    items = honest[:count]
    maths = [("4", f"so it is \\boxed{{{i}}}") for i in range(3000)]
    expected, direct_rate = direct(items, name)
    print(f"direct call {direct_rate:.0f}/s")
    plain = 0.0, 0.0
    ways: list[tuple[str, Execution, str]] = [("", Execution.PROCESS, "")]
    ways += [(backend, Execution.JAILED, chosen) for backend in backends for chosen in ("", python)]
    for backend, execution, chosen in ways:
        service = VerifierService(1, 5.0, (backend, {}) if backend else None)
        check = Check(name="m", verifier=name, execution=execution, python=chosen)
        math = Check(name="m", verifier="math", execution=execution, python=chosen)
        start = time.perf_counter()
        service.preflight([check] if chosen else [check, math])  # another interpreter may lack what `math` needs
        cold_s = time.perf_counter() - start
        verify(service, check, items[:8])
        start = time.perf_counter()
        found = verify(service, check, items)
        rate = len(items) / (time.perf_counter() - start)
        math_rate = 0.0
        if not chosen:
            verify(service, math, maths[:1000])
            start = time.perf_counter()
            verify(service, math, maths[1000:])
            math_rate = 2000 / (time.perf_counter() - start)
        service.close()
        plain = plain if any(plain) else (rate, math_rate)
        differ = sum((v.status, v.score) != e for v, e in zip(found, expected, strict=True))
        of_math = f", math {math_rate:.0f}/s ({math_rate / plain[1]:.2f})" if math_rate else ""
        print(
            f"{backend} {execution} {chosen}: start {cold_s:.1f} s; scorers {rate:.0f}/s ({rate / plain[0]:.2f})"
            f"{of_math}; {differ} of {len(found)} verdicts differ from a direct call",
            flush=True,
        )


def hostile(
    backend: str,
    python: str,
    name: str,
    folder: Path,
    packages: Path,
    rows: list[dict[str, Any]],
    honest: list[tuple[Any, str]],
    count: int,
) -> None:
    """Verifies `count` items, half of them hostile, and prints what changed."""
    rng = random.Random(6)
    marker = f"jailed-bench-{os.getpid()}"
    codes = payloads(str(folder), marker, FORGE)
    forms = ("{}", "[{}]", "str({})", "1+0*len(str({}))", "x + 0*({})", "[[{}]]", "<answer>{}</answer>")
    items: list[tuple[Any, str]] = []
    is_honest: list[bool] = []
    for index in range(count):
        is_honest.append(index % 2 == 0)
        if is_honest[-1]:
            items.append(rng.choice(honest[::2]))
        else:
            items.append((rng.choice(rows), rng.choice(forms).format(rng.choice(codes))))
    machine = Machine(folder, packages, marker)
    service = VerifierService(2, 5.0, (backend, {}))
    check = Check(name="m", verifier=name, execution=Execution.JAILED, python=python)
    service.preflight([check])
    start = time.perf_counter()
    found = verify(service, check, items)
    seconds = time.perf_counter() - start
    counters = service.counters
    service.close()
    paid = Counter(v.status.value for v, h in zip(found, is_honest, strict=True) if not h)
    passed = sum(v.passed for v, h in zip(found, is_honest, strict=True) if h)
    print(
        f"{backend}: {count} items in {seconds:.0f} s; changes of the machine: {machine.changes()}; honest passed "
        f"{passed} of {sum(is_honest)}; hostile {dict(paid)}; {counters.num_crashes} crashes, {counters.num_timeouts} "
        "time-outs",
        flush=True,
    )


if __name__ == "__main__":
    main()
