"""Checks the layout that tools do not: folders, lengths of files and recipes, names. Run by CI and pre-commit."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {"rlvr", "verifiers", "sandboxes", "recipes", "tests", "docker"}
NOT_PACKAGES = ("verifiers", "sandboxes", "recipes", "docker")
MAX_LINES = 400
MAX_FILES = 15
MAX_LOOP_LINES = 200
MAX_RECIPE_LINES = 60
BANNED_NAMES = {"utils.py", "helpers.py", "common.py", "misc.py"}


def problems() -> list[str]:
    """What is out of place; empty when all is well."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    files = [Path(line) for line in listed.stdout.splitlines() if (ROOT / line).is_file()]
    found: list[str] = []
    for folder in sorted({f.parts[0] for f in files if len(f.parts) > 1 and f.parts[0][0] != "."}):
        if folder not in FOLDERS:
            found.append(f"{folder}/: the top level holds only {', '.join(sorted(FOLDERS))}")
    for name in NOT_PACKAGES:
        if (ROOT / name / "__init__.py").exists():
            found.append(f"{name}/__init__.py: a popular package owns this import name; no __init__.py here")
    modules = Counter(f.parent for f in files if f.suffix == ".py" and f.name != "__init__.py")
    for parent, count in sorted(modules.items()):
        if count > MAX_FILES:
            found.append(f"{parent}/: {count} Python files; make folders by idea ({MAX_FILES} at most)")
    for file in files:
        length = len((ROOT / file).read_text(encoding="utf-8", errors="replace").splitlines())
        if file.name in BANNED_NAMES:
            found.append(f"{file}: a file is named after its idea")
        if file.suffix == ".py" and length > MAX_LINES:
            found.append(f"{file}: {length} lines; split it by idea ({MAX_LINES} at most)")
        if file == Path("rlvr/run/loop.py") and length > MAX_LOOP_LINES:
            found.append(f"{file}: {length} lines; the loop fits on one screen ({MAX_LOOP_LINES})")
        if file.parts[0] == "recipes" and file.suffix == ".yaml" and length > MAX_RECIPE_LINES:
            found.append(f"{file}: {length} lines; a recipe has {MAX_RECIPE_LINES} at most")
    return found


if __name__ == "__main__":
    listing = problems()
    sys.stderr.write("".join(f"{problem}\n" for problem in listing))
    sys.exit(bool(listing))
