"""The stand-in for reasoning-gym, importable in this process and its workers, and in an interpreter of its own."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent / "package"


@pytest.fixture
def gym(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the package, which is on the import path."""
    monkeypatch.syspath_prepend(PACKAGE)
    forget()
    yield PACKAGE
    forget()


@pytest.fixture
def gym_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Another interpreter, which alone has the package. Each start leaves a line in `starts`; the cache is empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\necho start >> {tmp_path}/starts\nPYTHONPATH={PACKAGE} exec {sys.executable} "$@"\n')
    script.chmod(0o755)
    return str(script)


def forget() -> None:
    """Removes the imported package."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "reasoning_gym"]:
        del sys.modules[name]
