"""What a plain `pip install` gets."""

import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_wheel_holds_the_three_packages_the_recipes_and_the_entry_points(tmp_path: Path):
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (points,) = (n for n in names if n.endswith("entry_points.txt"))
        listed = archive.read(points).decode()
    for recipe in (ROOT / "recipes").glob("*.yaml"):
        assert f"rlvr/_recipes/{recipe.name}" in names
    assert {"rlvr/cli.py", "rlvr_verifiers/text_match.py", "rlvr_sandboxes/__init__.py"} <= names
    assert "text_match = rlvr_verifiers.text_match:TextMatchVerifier" in listed
    assert not any(name.startswith(("tests/", "verifiers/", "docker/")) for name in names)
