"""The part of a `LearnerGroup` that sends weights to engines without a file."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch

from rlvr.errors import TransferError
from rlvr.learner.ranks.messages import Message, ref_from_json
from rlvr.learner.weights.publication import FILES_ALONE, Publication, bytes_of_files
from rlvr.learner.weights.weights_file import FILES_AT_ONCE, WeightsFolder
from rlvr.models.policy import Policy
from rlvr.records import WeightsKind, WeightsRef
from rlvr.transfer.chunks import Chunk, chunk_from_json
from rlvr.transfer.rendezvous import Rendezvous


class SendsFromRanks:
    """Implements `rlvr.learner.weights.sending.SendingLearner` over ranks."""

    policy: Policy
    _publication: Publication
    _published_dtype: torch.dtype
    _files: WeightsFolder

    def _ask(self, op: str, values: Mapping[str, Any]) -> list[Message]:
        raise NotImplementedError

    def meet(self, address: str) -> int:
        """See `rlvr.learner.weights.sending.SendingLearner`, as for the next five."""
        return int(self._ask("meet", {"address": address})[0].body["port"])

    def join(self, rendezvous: Rendezvous) -> None:
        """Rank 0 joins the engines."""
        self._ask_to_send("join", {"rendezvous": asdict(rendezvous)})

    def send(self, ref: WeightsRef) -> WeightsRef:
        """Rank 0 sends the weights of `ref`, which all ranks gather tensor by tensor; returns it with checksums."""
        self._publication.require_current(ref)
        return _with_checksums(ref, self._ask_to_send("send", _announced(ref)).body["checksums"])

    def next_chunk(self, ref: WeightsRef, is_first: bool, buffer_bytes: int) -> Chunk | WeightsRef:
        """The next chunk, which every rank has in a buffer on its own GPU; `ref` with checksums at the end."""
        self._publication.require_current(ref)
        how = {"is_first": is_first, "buffer_bytes": buffer_bytes}
        answers = [answer.body for answer in self._ask("next_chunk", {**_announced(ref), **how})]
        if answers[0]["chunk"] is None:
            return _with_checksums(ref, answers[0]["checksums"])
        chunks = [chunk_from_json(answer["chunk"]) for answer in answers]
        return replace(chunks[0], handles={uuid: h for chunk in chunks for uuid, h in chunk.handles.items()})

    def leave(self) -> None:
        """Rank 0 destroys the communicator."""
        self._ask("leave", {})

    def write_file(self, ref: WeightsRef) -> WeightsRef | None:
        """The same weights as a file, which rank 0 writes."""
        if not self._publication.is_current(ref):
            return None
        num_bytes = FILES_ALONE * bytes_of_files(self.policy.model, dtype=self._published_dtype, kind=WeightsKind.FULL)
        folder = str(self._files.make(num_bytes // FILES_AT_ONCE).absolute())
        written = self._ask("write_file", {"folder": folder, "version": ref.policy_version, "dtype": ref.dtype})[0]
        return ref_from_json(written.body["ref"])

    def _ask_to_send(self, op: str, values: Mapping[str, Any]) -> Message:
        """Rank 0's answer. Raises TransferError, after which the ranks continue."""
        answer = self._ask(op, values)[0]
        if answer.body["error"]:
            raise TransferError(answer.body["error"])
        return answer


def _announced(ref: WeightsRef) -> dict[str, Any]:
    return {"announced": [(entry.name, entry.shape) for entry in ref.manifest], "dtype": ref.dtype}


def _with_checksums(ref: WeightsRef, checksums: Sequence[int]) -> WeightsRef:
    pairs = zip(ref.manifest, checksums, strict=True)
    return replace(ref, manifest=tuple(replace(entry, checksum=checksum) for entry, checksum in pairs))
