"""The `cpu` target built for real, without a Docker engine: buildah on a base that debootstrap makes.

Minutes, and about 6 GB of disk while it runs. Every RUN of the target is executed; `EXTRAS=base` leaves out Ray and
vLLM.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MISSING = [tool for tool in ("buildah", "debootstrap") if shutil.which(tool) is None]
pytestmark = [
    pytest.mark.slow,
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
                if (
                    path.is_absolute() and path.exists()
                ):  # the files of an index lie beside its pages
                    is_whole = path.is_dir() and path.name != "simple"
                    folders.append(str(path if is_whole else path.parent))
                flags += [f"--{option}", word]
    return flags, sorted({folder for folder in folders if Path(folder).is_dir()})


@pytest.fixture(scope="module")
def buildah(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buildah]:
    """A store with the image `localhost/rlvr-cpu`."""
    folder = tmp_path_factory.mktemp("image")
    system = folder / "system"
    tool = Buildah(folder)
    try:
        made = subprocess.run(
            [
                "debootstrap",
                "--variant=minbase",
                "--include=ca-certificates",
                "bookworm",
                str(system),
            ],
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
            "build", "--network", "host", *volumes, "--build-arg", "BASE=localhost/debian-base",
            "--build-arg", "EXTRAS=base", "--build-arg", f"PIP_FLAGS={' '.join(flags)}",
            "--file", "docker/Dockerfile", "--target", "cpu", "--tag", "localhost/rlvr-cpu", ".",
        )  # fmt: skip
        yield tool
    finally:
        tool.close()
        shutil.rmtree(folder)


def in_image(buildah: Buildah, *commands: Sequence[str]) -> list[str]:
    """What each command prints in a container of the image."""
    container = buildah("from", "localhost/rlvr-cpu").strip()
    try:
        return [buildah("run", container, "--", *command) for command in commands]
    finally:
        buildah("rm", container)


def test_the_image_trains_as_a_user_without_rights_and_has_no_compiler(buildah: Buildah):
    who, compilers, trained, kept = in_image(
        buildah,
        ["id", "-un"],
        ["sh", "-c", "command -v gcc cc clang make; true"],
        ["rlvr", "train", "tiny", "run.steps=1", "cold_start.steps=2", "run.eval_prompts=8"],
        ["sh", "-c", "ls runs/tiny/*/checkpoints; ls /src 2>&1; true"],
    )
    assert who == "rlvr\n"
    assert compilers == ""
    assert "done" in trained
    assert "step_1" in kept
    assert "No such file" in kept
