"""Weights on the node of an engine: the learner's own file where they share a node, else a copy made once a node."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray

from rlvr.records import Transport, WeightsRef

CHUNK_BYTES = 64 << 20
_KEPT = 2  # versions, as the learner keeps


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightSource:
    """Who has the file: the learner's actor, and the node it is on."""

    actor: Any
    node_id: str


class WeightFiles:
    """Finds or makes the local file of a version."""

    def here(self, ref: WeightsRef, source: WeightSource) -> WeightsRef:
        """The same reference with a path on this node. Waits for the copy; blocks, so call it in a thread."""
        if ref.transport is not Transport.FILE:
            return ref
        if ray.get_runtime_context().get_node_id() == source.node_id:
            return ref
        path = Path(ref.uri)
        folder = _folder() / path.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / path.name
        with _locked(folder / "lock"):
            if not target.exists():
                _fetch(ref, source, target)
                _prune(folder)
        return replace(ref, uri=str(target))


def _folder() -> Path:
    shared = Path("/dev/shm")
    is_roomy = shared.is_dir() and os.access(shared, os.W_OK)
    if is_roomy and shutil.disk_usage(shared).free > (4 << 30):
        return shared / "rlvr-weights-copies"
    return Path(tempfile.gettempdir()) / "rlvr-weights-copies"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process of this node at a time."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _fetch(ref: WeightsRef, source: WeightSource, target: Path) -> None:
    temporary = target.with_suffix(".part")
    with temporary.open("wb") as file:
        for chunk in source.actor.read_weights.options(num_returns="streaming").remote(
            ref.uri, CHUNK_BYTES
        ):
            file.write(ray.get(chunk))
    temporary.rename(target)


def _prune(folder: Path) -> None:
    files = sorted(folder.glob("*.safetensors"), key=lambda f: f.stat().st_mtime)
    for old in files[:-_KEPT]:
        old.unlink(missing_ok=True)


def read_chunks(path: str, chunk_bytes: int) -> Iterator[bytes]:
    """The bytes of a file in portions."""
    with open(path, "rb") as file:
        while chunk := file.read(chunk_bytes):
            yield chunk
