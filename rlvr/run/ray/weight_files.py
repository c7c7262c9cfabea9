"""Weights on the node of an engine: the learner's own file where they share a node, else a copy made once a node."""

import fcntl
import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import torch
from ray import exceptions as ray_errors

from rlvr.learner.weights_file import place_for
from rlvr.records import Transport, WeightsRef
from rlvr.run.failures import LearnerLost

CHUNK_BYTES = 64 << 20
_KEPT = 2  # versions, as the learner keeps


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightSource:
    """Who has the file: the learner's actor, and the node it is on."""

    actor: Any
    node_id: str


class WeightFiles:
    """Finds or makes the local file of a version. Engines of one node and learner share a folder of copies:

    <place>/rlvr-weights-copies/<the learner's folder>/{v<version>.safetensors, base.safetensors, users}

    Each holds a shared lock on `users`; whoever closes last removes the folder, and the next one what the killed left.
    """

    def __init__(self, place: Path | None = None) -> None:
        """Args: place: where copies are made; None: what `weights_file.place_for` says."""
        self._place = place
        self._folder: Path | None = None
        self._users = -1

    def here(self, ref: WeightsRef, source: WeightSource) -> WeightsRef:
        """The same reference with a path on this node. Waits for the copy; blocks, so call it in a thread.

        Raises: LearnerLost when the learner that has the file is gone, ConfigError or OSError when there is no room.
        """
        if ref.base is not None:
            ref = replace(ref, base=self.here(ref.base, source))
        if ref.transport is not Transport.FILE:
            return ref
        if ray.get_runtime_context().get_node_id() == source.node_id:
            return ref
        path = Path(ref.uri)
        is_base = path.stem == "base"  # it stays, where versions come and go
        num_bytes = _size(ref) * (1 if is_base else _KEPT + 1)
        folder = self._shared_folder(path.parent.name, num_bytes=num_bytes)
        target = folder / path.name
        with _locked(folder / "lock"):
            if not target.exists():
                _prune(folder, kept=_KEPT - 1)
                _fetch(ref, source, target)
        return replace(ref, uri=str(target))

    def close(self) -> None:
        """Lets go of the copies; without another user they are removed. Safe to call twice."""
        folder, self._folder = self._folder, None
        if folder is not None:
            with _locked(folder.parent / "lock"):
                os.close(self._users)
                _remove_unused(folder)

    def _shared_folder(self, name: str, *, num_bytes: int) -> Path:
        if self._folder is None or self._folder.name != name:
            self.close()
            place = self._place or place_for(num_bytes)
            folder = place / "rlvr-weights-copies" / name
            folder.parent.mkdir(parents=True, exist_ok=True)
            with _locked(folder.parent / "lock"):
                for other in folder.parent.iterdir():
                    if other.is_dir() and other != folder:
                        _remove_unused(other)
                folder.mkdir(exist_ok=True)
                self._users = os.open(folder / "users", os.O_RDWR | os.O_CREAT, 0o644)
                fcntl.flock(self._users, fcntl.LOCK_SH)
            self._folder = folder
        return self._folder


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process of this node at a time."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _remove_unused(folder: Path) -> None:
    try:
        users = os.open(folder / "users", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError:  # another user's
        return
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        return
    finally:
        os.close(users)


def _size(ref: WeightsRef) -> int:
    """Bytes of the tensors."""
    width = getattr(torch, ref.dtype).itemsize
    return sum(math.prod(entry.shape) for entry in ref.manifest) * width


def _fetch(ref: WeightsRef, source: WeightSource, target: Path) -> None:
    draft = target.with_suffix(".part")
    chunks = source.actor.read_weights.options(num_returns="streaming").remote(ref.uri, CHUNK_BYTES)
    try:
        with draft.open("wb") as file:
            for chunk in chunks:
                file.write(ray.get(chunk))
        draft.rename(target)
    except ray_errors.RayTaskError:
        raise
    except ray_errors.RayError as error:
        raise LearnerLost(
            f"the learner was gone before the weights of version {ref.policy_version} were fetched: {error}"
        ) from error
    finally:
        draft.unlink(missing_ok=True)


def _prune(folder: Path, *, kept: int) -> None:
    files = sorted(folder.glob("v*.safetensors"), key=lambda f: f.stat().st_mtime)
    for old in files[:-kept]:
        old.unlink(missing_ok=True)


def read_chunks(path: str, chunk_bytes: int) -> Iterator[bytes]:
    """The bytes of a file in portions."""
    with open(path, "rb") as file:
        while chunk := file.read(chunk_bytes):
            yield chunk
