"""Both local sandboxes for the tests of the box: made once a module, skipped where the machine lacks what they need."""

import asyncio
import os
from collections.abc import Iterator

import pytest

from rlvr.protocols import Limits, RunResult
from rlvr_sandboxes.landlock import LandlockSandbox
from rlvr_sandboxes.namespaces import NamespacesSandbox
from rlvr_sandboxes.outside.boxes import BoxConfig, BoxedSandbox

BACKENDS: dict[str, type[BoxedSandbox]] = {"namespaces": NamespacesSandbox, "landlock": LandlockSandbox}
QUICK = Limits(wall_s=5.0)


def make(name: str, **config: object) -> BoxedSandbox:
    """A sandbox of two slots without numpy; skips where a required probe fails."""
    backend = BACKENDS[name]
    missing = [probe for probe in backend.probes() if probe.is_required and not probe.is_ok]
    if missing:
        pytest.skip(f"{name}: {missing[0].name}: {missing[0].detail}")
    settings = {"slots": 2, "preimport": (), "should_self_test": False, **config}
    return backend(BoxConfig.model_validate(settings))


def sandbox_fixture(name: str) -> Iterator[BoxedSandbox]:
    """Yields one sandbox and closes it."""
    sandbox = make(name)
    yield sandbox
    asyncio.run(sandbox.close())


def python(
    sandbox: BoxedSandbox,
    source: str | bytes,
    stdin: bytes = b"",
    limits: Limits = QUICK,
    files: dict[str, bytes] | None = None,
    arguments: tuple[str, ...] = (),
) -> RunResult:
    """Runs a Python program."""
    content = source.encode("utf-8", "surrogatepass") if isinstance(source, str) else source
    everything = {"main.py": content, **(files or {})}
    return asyncio.run(sandbox.run(("python", "main.py", *arguments), everything, stdin, limits))


def processes_with(marker: str) -> list[str]:
    """Command lines on this machine that hold `marker`."""
    found: list[str] = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    line = file.read().replace(b"\0", b" ").decode("utf-8", "replace")
            except OSError:
                continue
            if marker in line:
                found.append(line)
    return found
