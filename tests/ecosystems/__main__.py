"""Runs the adapters with other people's real packages and writes the table in tests/ecosystems/README.md.

    python -m tests.ecosystems [NAME...]      make test-ecosystems

Each package gets a virtual environment in .venvs/, which is made once; delete the folder to have it made again. It
needs a package index. Rows of names that are not asked for stay as they are.
"""

import argparse
import datetime
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VENVS = ROOT / ".venvs"
PAGE = Path(__file__).with_name("README.md")
READY = "ready"
HEADER = "| package | version | Python | date | tests | equal scores | seconds |\n|---|---|---|---|---|---|---|\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ecosystem:
    """A package and how to test with it.

    package: as pip names it. requirements: what is installed; empty: the package comes with requirements-dev.lock.
    with_dependencies: False installs exactly the requirements, and the development environment gives the rest.
    python: "3.12" for a package that needs it. variable: tests run in the development environment, and this variable
    names the interpreter with the package.
    """

    package: str
    requirements: tuple[str, ...] = ()
    with_dependencies: bool = True
    python: str = ""
    variable: str = ""


ECOSYSTEMS = {
    "trl": Ecosystem(package="trl"),
    "verl": Ecosystem(
        package="verl",
        requirements=(
            "verl==0.9.1", "tensordict==0.15.3", "codetiming==1.4.0", "orjson==3.13.0", "pyvers==0.2.3",
            "omegaconf==2.4.0", "hydra-core==1.3.8", "pylatexenc==2.11",
        ),
        with_dependencies=False,
    ),
    "verifiers": Ecosystem(package="verifiers", requirements=("verifiers==0.3.1", "math-verify==0.9.0")),
    "reasoning_gym": Ecosystem(
        package="reasoning-gym", requirements=("reasoning-gym==0.1.25",), variable="RLVR_REASONING_GYM_PYTHON"
    ),
}  # fmt: skip


class Skipped(Exception):  # noqa: N818 - an outcome, not a fault
    """The reason for which an ecosystem is not tested here."""


def interpreter_of(name: str, ecosystem: Ecosystem) -> str:
    """The interpreter with the package; its environment is made if it is not there. Raises: Skipped."""
    if not ecosystem.requirements:
        return sys.executable
    folder = VENVS / name
    python = str(folder / "bin" / "python")
    if (folder / READY).exists():
        return python
    base = shutil.which(f"python{ecosystem.python}") if ecosystem.python else sys.executable
    if base is None:
        raise Skipped(f"needs Python {ecosystem.python}, which is not on PATH")
    sys.stdout.write(f"{name}: making {folder}\n")
    subprocess.run([base, "-m", "venv", "--clear", str(folder)], check=True)
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    shown = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = Path(subprocess.run(shown, check=True, capture_output=True, text=True).stdout.strip())
    if ecosystem.with_dependencies:
        requirements = [*ecosystem.requirements, "editables", "hatchling", "pydantic", "pytest"]
    else:
        requirements = ["--no-deps", *ecosystem.requirements]
        own = [path for path in sys.path if path.endswith("site-packages")]
        packages.joinpath("zz_development.pth").write_text("\n".join(own) + "\n")
    done = subprocess.run([*install, *requirements], capture_output=True, text=True, check=False)
    if done.returncode:
        raise Skipped(f"cannot be installed: {done.stderr.strip().splitlines()[-1][:120]}")
    if ecosystem.with_dependencies:
        done = subprocess.run([*install, "--no-deps", "--editable", str(ROOT)], capture_output=True, check=False)
        if done.returncode:
            raise Skipped("rlvr itself cannot be installed next to it")
    shutil.rmtree(packages / "tests", ignore_errors=True)  # some packages install theirs, which would hide this one
    (folder / READY).touch()
    return python


def row_of(name: str, ecosystem: Ecosystem) -> tuple[str, bool]:
    """The line of the table, and whether nothing failed."""
    today = str(datetime.date.today())
    tests = PAGE.with_name(f"test_{name}.py")
    if not tests.exists():
        return f"| {ecosystem.package} | | | {today} | skipped: no tests yet | | |", True
    try:
        python = interpreter_of(name, ecosystem)
    except Skipped as error:
        return f"| {ecosystem.package} | | | {today} | skipped: {error} | | |", True
    show = (
        f"import platform, importlib.metadata as m; print(platform.python_version(), m.version({ecosystem.package!r}))"
    )
    shown = subprocess.run([python, "-c", show], check=True, capture_output=True, text=True).stdout.split()
    environment = {**os.environ, "RLVR_ECOSYSTEM": name, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    if ecosystem.variable:
        environment[ecosystem.variable] = python
    folders = [str(ROOT), str(ROOT / "verifiers"), str(ROOT / "sandboxes")]
    environment["PYTHONPATH"] = os.pathsep.join(folders)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        # without the configuration of the other tests, whose plugins and packages are not installed there
        options = ["-q", "-c", os.devnull, f"--rootdir={ROOT}", f"--confcutdir={PAGE.parent}", "-p", "no:cacheprovider"]
        options += ["--import-mode=importlib", "-o", "junit_family=xunit1", f"--junit-xml={report}"]
        start = time.perf_counter()
        runner = sys.executable if ecosystem.variable else python
        done = subprocess.run([runner, "-m", "pytest", *options, str(tests)], cwd=ROOT, env=environment, check=False)
        seconds = time.perf_counter() - start
        root = ElementTree.parse(report).getroot() if report.exists() else ElementTree.Element("none")
    cases = list(root.iter("testcase"))
    num_failed = sum(case.find("failure") is not None or case.find("error") is not None for case in cases)
    num_skipped = sum(case.find("skipped") is not None for case in cases)
    properties = [item for item in root.iter("property") if item.get("name") == "equal_scores"]
    equal = sum(int(item.get("value", "0")) for item in properties)
    outcome = f"{len(cases) - num_failed - num_skipped} passed"
    outcome += f", {num_failed} failed" * bool(num_failed) + f", {num_skipped} skipped" * bool(num_skipped)
    outcome = outcome if cases else f"pytest ended with {done.returncode}"
    line = f"| {ecosystem.package} | {shown[1]} | {shown[0]} | {today} | {outcome} | {equal or ''} | {seconds:.0f} |"
    return line, done.returncode == 0


def write_rows(rows: dict[str, str]) -> None:
    """Puts the new lines into the page's table, in the order of the ecosystems."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, after = text.partition(HEADER)
    old = {match[1]: match[0] for match in re.finditer(r"^\| (\S+) \|.*$", after, re.MULTILINE)}
    lines = [
        rows.get(name) or old.get(ecosystem.package) or f"| {ecosystem.package} | | | | not run | | |"
        for name, ecosystem in ECOSYSTEMS.items()
    ]
    PAGE.write_text(before + HEADER + "\n".join(lines) + "\n", encoding="utf-8")


def main() -> int:
    """Runs what is asked for; the exit code is 1 if a test failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="default: all")
    names = parser.parse_args().names or list(ECOSYSTEMS)
    if unknown := set(names) - set(ECOSYSTEMS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(ECOSYSTEMS)}")
    is_sound = True
    for name in names:
        row, has_passed = row_of(name, ECOSYSTEMS[name])
        is_sound &= has_passed
        write_rows({name: row})
        sys.stdout.write(f"{row}\n")
    return 0 if is_sound else 1


if __name__ == "__main__":
    sys.exit(main())
