"""Weights on an engine's node: the learner's own file if they share a node, else one copy per node."""

import fcntl
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import torch
from ray import exceptions as ray_errors

from rlvr.errors import RolloutError
from rlvr.learner.weights.weights_file import FOLDER_VARIABLE, place_for
from rlvr.processes import watchdog
from rlvr.records import Transport, WeightsRef
from rlvr.run.step.failures import LearnerLost
from rlvr.storage.ages import by_age

CHUNK_BYTES = 32 << 20
CHUNKS_AHEAD = 2  # that the learner may have sent and the node has not written yet; the rest would fill Ray's store
_KEPT = 2  # versions, as many as the learner keeps
_PREFIX = "rlvr-weights-copies-"


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightSource:
    """The owner of the file: the learner's actor, and its node."""

    actor: Any
    node_id: str


class WeightFiles:
    """Finds or copies the local file of a version. Engines of one node and learner share a folder of copies:

    <place>/rlvr-weights-copies-<random part of the learner's folder>/{v<version>.safetensors, base.safetensors}

    It belongs to this user and is closed to all others; a folder that someone else put in its place is refused, and no
    link is followed. Each engine holds a shared lock on the folder, and the last to close removes it; if engines were
    killed, their watchdogs do, and if those were killed too, the next engine of the node.
    """

    def __init__(self, place: Path | None = None) -> None:
        """Args: place: folder for the copies; None: the one that `weights_file.place_for` chooses."""
        self._place = place
        self._folder: Path | None = None
        self._held = -1

    def here(self, ref: WeightsRef, source: WeightSource) -> WeightsRef:
        """The reference with a path on this node. Waits for the copy; blocks, so call it in a thread.

        Raises: LearnerLost when the learner that holds the file is gone, ConfigError or OSError when there is no room.
        """
        if ref.base is not None:
            ref = replace(ref, base=self.here(ref.base, source))
        if ref.transport is not Transport.FILE:
            return ref
        if ray.get_runtime_context().get_node_id() == source.node_id:
            return ref
        path = Path(ref.uri)
        is_base = path.stem == "base"  # kept, unlike the versions
        num_bytes = _size(ref) * (1 if is_base else _KEPT + 1)
        folder = self._shared_folder(path.parent.name, num_bytes=num_bytes)
        target = folder / path.name
        with _locked(folder / "lock"):
            if not os.path.lexists(target):
                _prune(folder, kept=_KEPT - 1)
                _fetch(ref, source, target)
        return replace(ref, uri=str(target))

    def close(self) -> None:
        """Releases the copies; the last user removes them. Safe to call twice."""
        folder, self._folder = self._folder, None
        if folder is not None:
            os.close(self._held)
            watchdog.remove_unused(folder)
            watchdog.forget(folder)

    def _shared_folder(self, name: str, *, num_bytes: int) -> Path:
        """The locked folder of copies. Args: name: of the learner's folder, with the random part that the system chose.

        Raises: RolloutError when something that is not ours is there.
        """
        mark = _PREFIX + name.rpartition("-")[2]
        if self._folder is None or self._folder.name != mark:
            self.close()
            place = self._place or place_for(num_bytes)
            for other in place.glob(f"{_PREFIX}*"):
                if other.name != mark:
                    watchdog.remove_unused(other)
            folder = place / mark
            watchdog.guard(folder)
            self._held = _hold(folder)
            self._folder = folder
        return self._folder


def _hold(folder: Path) -> int:
    """Creates a folder that only this user can enter, and returns a descriptor with a shared lock on it.

    Another engine may remove the folder in between; then it is created again. Raises: RolloutError.
    """
    while True:
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        descriptor = watchdog.open_own(folder)
        if descriptor is None:
            if not os.path.lexists(folder):
                continue
            raise RolloutError(
                f"{folder}, the folder for copies of weights, is a link, not a folder, or another user's; remove it "
                f"or set {FOLDER_VARIABLE} on this node to a folder of your own"
            )
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        mine = os.fstat(descriptor)
        if mine.st_mode & 0o077:
            os.close(descriptor)
            raise RolloutError(f"{folder}, the folder for copies of weights, can be entered by others; remove it")
        if os.path.lexists(folder) and folder.lstat().st_ino == mine.st_ino:
            return descriptor
        os.close(descriptor)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Context that one process of this node can enter at a time."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _size(ref: WeightsRef) -> int:
    """Size of the tensors in bytes."""
    width = getattr(torch, ref.dtype).itemsize
    return sum(math.prod(entry.shape) for entry in ref.manifest) * width


def _fetch(ref: WeightsRef, source: WeightSource, target: Path) -> None:
    draft = target.with_suffix(".part")
    try:
        with draft.open("wb") as file:
            for chunk in stream(source.actor, ref.uri):
                file.write(ray.get(chunk))
        draft.rename(target)
    except ray_errors.RayTaskError:
        raise
    except ray_errors.RayError as error:
        raise LearnerLost(
            f"the learner died before the weights of version {ref.policy_version} were fetched: {error}"
        ) from error
    finally:
        draft.unlink(missing_ok=True)


def stream(actor: Any, uri: str) -> Iterator[Any]:
    """References to the chunks of a file of the learner's actor, which sends more only as these are read."""
    options = {"num_returns": "streaming", "_generator_backpressure_num_objects": CHUNKS_AHEAD}
    return actor.read_weights.options(**options).remote(uri, CHUNK_BYTES)


def _prune(folder: Path, *, kept: int) -> None:
    files = by_age(folder.glob("v*.safetensors"))
    for old in files[:-kept]:
        old.unlink(missing_ok=True)


def read_chunks(path: str, chunk_bytes: int) -> Iterator[bytes]:
    """The bytes of a file in chunks."""
    with open(path, "rb") as file:
        while chunk := file.read(chunk_bytes):
            yield chunk
