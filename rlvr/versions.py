"""The tested versions of Python and of the packages whose behaviour changes between releases; no other place says them.

The checks at the start of a run, `rlvr doctor`, the refusal of an untested vLLM and `tests/other_versions.py` read this
table. Tests compare it with pyproject.toml, the lock files, the Makefile and rlvr/README.md, which also says what was
run with which version, and when. No package is imported to find its version.
"""

import platform
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The tested versions of Python or of a package.

    lowest: an older version is refused. locked: the one of the lock files, with which all tests run. newest: a version
    from the next minor release on is untested. is_capped: pyproject.toml does not allow an untested newer version to be
    installed. refuses_newer: neither does a run start with it; else it starts with a warning.
    """

    name: str
    lowest: str
    locked: str
    newest: str
    is_capped: bool = False
    refuses_newer: bool = False

    @property
    def below(self) -> str:
        """The first minor release that was not tested.

        >>> TORCH.newest, TORCH.below
        ('2.14.1', '2.15')
        """
        major, minor = self.newest.split(".")[:2]
        return f"{major}.{int(minor) + 1}"

    @property
    def bounds(self) -> str:
        """The tested range as pip writes it.

        >>> TORCH.bounds
        '>=2.11,<2.15'
        """
        return f">={self.lowest},<{self.below}"

    @property
    def tested(self) -> str:
        """The tested range as a person reads it.

        >>> TORCH.tested, VLLM.tested
        ('2.11 to 2.14.1', '0.32.0')
        """
        is_one = release(self.lowest) == release(self.newest)
        return self.newest if is_one else f"{self.lowest} to {self.newest}"

    def is_too_old(self, version: str) -> bool:
        """Whether `version` comes before the window.

        >>> TORCH.is_too_old("2.10.1+cpu"), TORCH.is_too_old("2.11.0")
        (True, False)
        """
        return release(version) < release(self.lowest)

    def is_too_new(self, version: str) -> bool:
        """Whether `version` comes after the window; so does a first release candidate of the next minor release.

        >>> TORCH.is_too_new("2.14.9"), TORCH.is_too_new("2.15.0a0+git1234")
        (False, True)
        """
        return release(version) >= release(self.below)


PYTHON = Window(name="python", lowest="3.11", locked="3.11", newest="3.12")
TORCH = Window(name="torch", lowest="2.11", locked="2.13.0", newest="2.14.1", is_capped=True)
TRANSFORMERS = Window(name="transformers", lowest="5.16.1", locked="5.19.0", newest="5.24.0", is_capped=True)
RAY = Window(name="ray", lowest="2.50", locked="2.60.0", newest="2.60.0")
# Its API for weight updates changes with almost every release.
VLLM = Window(name="vllm", lowest="0.32", locked="0.32.0", newest="0.32.0", is_capped=True, refuses_newer=True)
WINDOWS = (PYTHON, TORCH, TRANSFORMERS, RAY, VLLM)


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionProblem:
    """An installed version outside its window. is_refused: a run must not start with it."""

    message: str
    is_refused: bool


def release(version: str) -> tuple[int, ...]:
    """The numbers of a version, without zeros at the end; empty if it begins with none.

    >>> release("2.13.0+cpu"), release("0.33.0rc1"), release("main")
    ((2, 13), (0, 33), ())
    """
    found = re.match(r"\d+(?:\.\d+)*", version)
    numbers = [int(number) for number in found.group().split(".")] if found else []
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def installed(name: str) -> str | None:
    """The version of an installed distribution, or of this Python; None when it is not installed."""
    if name == PYTHON.name:
        return platform.python_version()
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def problem_with(window: Window, version: str, *, distribution: str = "") -> VersionProblem | None:
    """What is wrong with an installed version, and what to install instead; None inside the window.

    Args: distribution: the name under which it is installed, by default the window's.

    >>> problem_with(TORCH, "2.13.0+cpu") is None
    True
    """
    name = distribution or window.name
    is_old = window.is_too_old(version)
    if not is_old and not window.is_too_new(version):
        return None
    if window is PYTHON:
        fix = f"make a new environment with Python {window.locked}: make setup PYTHON=python{window.locked}"
    else:
        fix = f"to get the version that all tests run with: pip install {name}=={window.locked}"
    tested = f"(tested: {window.tested}); {fix}"
    if is_old:
        return VersionProblem(message=f"{name} {version} is too old for rlvr {tested}", is_refused=True)
    return VersionProblem(
        message=f"rlvr was not tested with {name} {version} {tested}", is_refused=window.refuses_newer
    )


def installed_problems(
    windows: Sequence[Window], *, find: Callable[[str], str | None] = installed
) -> tuple[VersionProblem, ...]:
    """The problems of those packages that are installed."""
    found = ((window, find(window.name)) for window in windows)
    problems = (problem_with(window, version) for window, version in found if version is not None)
    return tuple(problem for problem in problems if problem is not None)
