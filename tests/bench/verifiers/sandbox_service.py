"""What the sandbox service costs against the local backend: latency of a run, rates of `code` and a jailed scorer.

Both sides take turns, in rounds of a second or two, so that other work on the machine meets both alike; a ratio is the
median over the rounds. `--socket` measures a service that runs already, such as one in a container.

    python -m tests.bench.verifiers.sandbox_service [--backend landlock] [--rounds 7] [--socket PATH]
"""

import argparse
import asyncio
import contextlib
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from rlvr.protocols import Limits
from rlvr.registry import build_sandbox
from rlvr.verification.service import VerifierService
from tests.contract.code_suite import make_verifier, read_rows, verify_row
from tests.contract.service_cases import served
from tests.unit.verification.jailed_cases import SCORER, the_check, verdicts

HELLO = {"main.py": b"print(input())"}


async def _latency_ms(box: Any) -> float:
    times: list[float] = []
    for _ in range(60):
        start = time.perf_counter()
        await box.run(("python", "main.py"), HELLO, b"x", Limits())
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def _rate_of(kind: str) -> Callable[[Any], Awaitable[float]]:
    rows = [row for row in read_rows("honest") if row["kind"] == kind and not row.get("needs")]
    quick = [row for row in rows if row["language"] == "python" and row["limits"]["wall_s"] == 6][:20]

    async def rate(box: Any) -> float:
        verifier, gate = make_verifier(box), asyncio.Semaphore(4)

        async def verify(row: dict[str, Any]) -> None:
            async with gate:
                assert (await verify_row(verifier, row)).passed, row["id"]

        start = time.perf_counter()
        await asyncio.gather(*(verify(row) for row in quick * 4))
        return 4 * len(quick) / (time.perf_counter() - start)

    return rate


async def _measure_code(local: Any, far: Any, rounds: int) -> None:
    for box in (local, far):
        await box.start()
    for title, measure in (
        ("one run, ms", _latency_ms),
        ("code, stdio, completions/s", _rate_of("stdio")),
        ("code, function, completions/s", _rate_of("function")),
    ):
        for box in (local, far):
            await measure(box)
        pairs = [(await measure(local), await measure(far)) for _ in range(rounds)]
        _report(title, pairs)
    for box in (local, far):
        await box.close()


def _measure_jailed(backend: str, socket: str, rounds: int) -> None:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "scorers.py").write_text(SCORER)
        folder.chmod(0o755)
        check = the_check(folder / "scorers.py")
        services: list[VerifierService] = []
        for choice in ((backend, {"slots": 2}), ("service", {"socket": socket})):
            services.append(VerifierService(2, 20.0, choice))
            stack.callback(services[-1].close)
            services[-1].preflight([check])

        def rate(service: VerifierService) -> float:
            texts = [f"{index} * 0 + 2 + 2" for index in range(600)]
            start = time.perf_counter()
            assert all(verdict.passed for verdict in verdicts(service, check, texts))
            return len(texts) / (time.perf_counter() - start)

        for service in services:
            rate(service)
        _report("jailed scorer, completions/s", [(rate(services[0]), rate(services[1])) for _ in range(rounds)])


def _report(title: str, pairs: list[tuple[float, float]]) -> None:
    local, far = (statistics.median(pair[side] for pair in pairs) for side in (0, 1))
    ratios = sorted(pair[1] / pair[0] for pair in pairs)
    print(
        f"{title:32} local {local:8.2f}   service {far:8.2f}   ratio {statistics.median(ratios):.2f} "
        f"({ratios[0]:.2f} to {ratios[-1]:.2f})",
        flush=True,
    )


def main() -> None:
    """Prints one line for each measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backend", default="landlock")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--socket", default="")
    parser.add_argument("--jailed-only", action="store_true")
    arguments = parser.parse_args()
    with contextlib.ExitStack() as stack:
        socket = arguments.socket or stack.enter_context(served(arguments.backend)).path
        local = build_sandbox(arguments.backend, {"slots": 2})
        far = build_sandbox("service", {"socket": socket})
        if not arguments.jailed_only:
            asyncio.run(_measure_code(local, far, arguments.rounds))
        _measure_jailed(arguments.backend, socket, arguments.rounds)


if __name__ == "__main__":
    main()
