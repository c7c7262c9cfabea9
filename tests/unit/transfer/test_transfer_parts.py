"""What learner and engines share to send weights: chunks, deadlines, and the rendezvous, over gloo in threads."""

import socket
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor

from rlvr.errors import LearnerError, TransferError
from rlvr.models.checksum import tensor_checksum
from rlvr.records import TensorEntry
from rlvr.transfer import communicator as communicators
from rlvr.transfer.communicator import SUBSTITUTE_VARIABLE, host_store, join
from rlvr.transfer.deadline import aborted_after, within
from rlvr.transfer.packing import send_packed
from rlvr.transfer.rendezvous import Rendezvous

sys.path.insert(0, str(Path(__file__).parents[2] / "e2e" / "vllm"))
CPU = torch.device("cpu")
TENSORS = {name: torch.arange(size, dtype=torch.bfloat16) for name, size in (("a", 10), ("b", 30), ("c", 5), ("d", 1))}
ENTRIES = tuple(TensorEntry(name=n, shape=tuple(t.shape), checksum=None) for n, t in TENSORS.items())


class Recorded:
    """Keeps the chunks; hangs before chunk `hangs_at` until it is destroyed."""

    def __init__(self, *, hangs_at: int | None = None) -> None:
        self.chunks: list[Tensor] = []
        self.is_destroyed = threading.Event()
        self._hangs_at = hangs_at

    def broadcast(self, tensor: Tensor, src: int) -> None:
        if len(self.chunks) == self._hangs_at:
            self.is_destroyed.wait()
            raise TransferError("the communicator was aborted")
        self.chunks.append(tensor.clone())

    def destroy(self) -> None:
        self.is_destroyed.set()


def send(to: Recorded, tensors: Iterator[tuple[str, Tensor]], *, deadline_s: float = 30.0) -> tuple[TensorEntry, ...]:
    return send_packed(
        tensors, entries=ENTRIES, dtype=torch.bfloat16, communicator=to, buffer_bytes=50, deadline_s=deadline_s
    )


def test_a_chunk_ends_with_the_tensor_that_takes_it_over_the_limit():
    to = Recorded()
    sent = send(to, iter(TENSORS.items()))
    assert [chunk.numel() for chunk in to.chunks] == [20 + 60, 10 + 2]
    together = torch.cat([tensor.view(torch.uint8) for tensor in TENSORS.values()])
    assert torch.equal(torch.cat(to.chunks), together)
    assert {entry.name: entry.checksum for entry in sent} == {n: tensor_checksum(t) for n, t in TENSORS.items()}


def test_a_broadcast_that_hangs_is_aborted_at_its_deadline_and_the_source_is_drained():
    """Other ranks of a sharded learner are in the collectives that make the rest of the tensors."""
    source, started = iter(TENSORS.items()), time.monotonic()
    to = Recorded(hangs_at=1)
    with pytest.raises(TransferError, match=r"did not end within 0\.3 s \(cluster\.sync_deadline_s\)"):
        send(to, source, deadline_s=0.3)
    assert 0.3 <= time.monotonic() - started < 2.0
    assert to.is_destroyed.is_set()
    assert list(source) == []


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (
            {"b": torch.zeros(31, dtype=torch.bfloat16)},
            r"would send 'b' of shape \(31,\).*announced 'b' of shape \(30,\)",
        ),
        ({"b": torch.zeros(30)}, r"would send 'b' of shape \(30,\) in torch\.float32"),
        ({"e": torch.zeros(1, dtype=torch.bfloat16)}, "would send 'e', which it has not announced"),
    ],
)
def test_a_tensor_that_was_not_announced_so_is_named(changed: dict[str, Tensor], expected: str):
    source = iter((TENSORS | changed).items())
    with pytest.raises(LearnerError, match=expected):
        send(Recorded(), source)
    assert list(source) == []


def test_what_cannot_be_aborted_is_left_behind():
    end = threading.Event()
    with pytest.raises(TransferError, match=r"a call did not end within 0\.1 s"):
        within(0.1, end.wait, what="a call")
    end.set()
    with pytest.raises(ValueError, match="wrong"):
        within(5.0, lambda: int("wrong"), what="a call")


def test_an_error_after_the_deadline_is_the_deadline():
    has_expired = threading.Event()

    def work() -> None:
        with aborted_after(0.05, has_expired.set, what="a call"):
            has_expired.wait()
            raise RuntimeError("NCCL error 3")

    with pytest.raises(TransferError, match="a call did not end"):
        work()


def meeting(*names: str, deadline_s: float) -> tuple[Rendezvous, object]:
    store = host_store("127.0.0.1")
    return Rendezvous(
        address="127.0.0.1", port=store.port, names=("the learner", *names), token=2**40 + 7, deadline_s=deadline_s
    ), store


def test_ranks_meet_and_bytes_arrive(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(SUBSTITUTE_VARIABLE, "gloo_communicator:GlooCommunicator")
    there, store = meeting("engine-0", "engine-0", deadline_s=20.0)

    def receive(rank: int) -> list[int]:
        own = join(there, rank=rank, device=CPU)
        found = torch.zeros(3, dtype=torch.uint8)
        own.broadcast(found, src=0)
        return found.tolist()

    with ThreadPoolExecutor(2) as pool:
        receiving = [pool.submit(receive, rank) for rank in (1, 2)]
        join(there, rank=0, device=CPU, store=store).broadcast(torch.tensor([4, 5, 6], dtype=torch.uint8), src=0)
        assert [future.result() for future in receiving] == [[4, 5, 6]] * 2


def test_a_communicator_that_carries_nothing_is_an_error(monkeypatch: pytest.MonkeyPatch):
    """Such as NCCL's on a machine without it: disabled, and every broadcast returns at once."""
    monkeypatch.setenv(SUBSTITUTE_VARIABLE, "gloo_communicator:SilentCommunicator")
    there, store = meeting("engine-0", deadline_s=20.0)
    with ThreadPoolExecutor(1) as pool:
        receiving = pool.submit(join, there, rank=1, device=CPU)
        join(there, rank=0, device=CPU, store=store)
        with pytest.raises(TransferError, match=r"rank 1 \(engine-0\) received other bytes.*carries nothing"):
            receiving.result()


def test_who_does_not_come_is_named_at_the_deadline():
    there, store = meeting("engine-0", "engine-1", deadline_s=0.3)
    with pytest.raises(TransferError, match=r"^engine-0 \(rank 1\), engine-1 \(rank 2\) did not join.* within 0\.3 s"):
        join(there, rank=0, device=CPU, store=store)


def test_without_nccl_the_error_says_what_to_set(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(SUBSTITUTE_VARIABLE, raising=False)
    monkeypatch.setattr("rlvr.transfer.nccl._LIBRARY", "libnccl-that-is-not-there.so")
    there, store = meeting(deadline_s=5.0)
    with pytest.raises(TransferError, match=r"NCCL cannot be loaded.*cluster\.weight_transport=file"):
        join(there, rank=0, device=CPU, store=store)
    assert communicators.has_substitute() is False


def test_on_a_node_with_fixed_ports_the_store_takes_a_free_one_of_its_range(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLVR_PORT", "21000")
    with socket.create_server(("127.0.0.1", 21010)):
        stores = [host_store("127.0.0.1") for _ in range(2)]
    assert [store.port for store in stores] == [21011, 21012]
