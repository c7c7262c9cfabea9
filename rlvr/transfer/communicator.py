"""Communicators between the learner (rank 0) and the workers of engines.

    learner: host_store -> port --(driver)--> engines
    every rank: join -> all are there -> NCCL -> a token arrives -> Communicator

vLLM's own communicator is not used. The learner would have to import vLLM, which replaces parts of torch's compiler in
its process; and where NCCL is missing, it is disabled and its broadcast silently does nothing.
"""

import errno
import importlib
import os
import socket
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.distributed import TCPStore  # type: ignore[reportPrivateImportUsage] # its documented place

from rlvr.errors import TransferError
from rlvr.ports import layout_here
from rlvr.transfer.deadline import aborted_after, within
from rlvr.transfer.nccl import NcclCommunicator
from rlvr.transfer.rendezvous import Rendezvous

# "module:function" in place of NcclCommunicator. For tests on machines without GPUs, where everything else is real.
SUBSTITUTE_VARIABLE = "RLVR_SUBSTITUTE_COMMUNICATOR"
_POLL_S = 0.01
_TOKEN_BYTES = 8


class Communicator(Protocol):
    """What the packed broadcast needs."""

    def broadcast(self, tensor: Tensor, src: int) -> None:
        """Sends or receives a contiguous tensor of bytes on the current stream. Raises TransferError after `destroy`.

        Args: src: the rank that sends.
        """
        ...

    def destroy(self) -> None:
        """Aborts what is running, from any thread, and frees the communicator. Safe to call twice."""
        ...


def host_store(address: str) -> TCPStore:
    """The store in which the ranks meet, on a free port of this address alone: of the cluster's range, if there is one.

    Raises: TransferError when every port of the range is in use.
    """
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM) as listener:
        _listen(listener, address)
        port = listener.getsockname()[1]
        return TCPStore(
            address, port, is_master=True, wait_for_workers=False, use_libuv=False, master_listen_fd=listener.detach()
        )


def _listen(listener: socket.socket, address: str) -> None:
    layout = layout_here()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for port in layout.rendezvous if layout else [0]:
        try:
            listener.bind((address, port))
            listener.listen()
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not layout:
                raise
        else:
            return
    raise TransferError(f"all ports for a rendezvous on {address} are in use (RLVR_PORT + 10 to RLVR_PORT + 99)")


def join(rendezvous: Rendezvous, *, rank: int, device: torch.device, store: TCPStore | None = None) -> Communicator:
    """A communicator of all ranks that has carried the token. Args: store: that of `host_store`, on rank 0.

    Raises: TransferError that names who did not come within the deadline, or when the token did not arrive.
    """
    until = time.monotonic() + rendezvous.deadline_s
    store = store or _connect(rendezvous)
    _meet(store, rendezvous, rank=rank, until=until)

    def connect() -> Communicator:
        if device.type == "cuda":
            torch.cuda.set_device(device)  # of this thread
        return _factory()(store, rank, rendezvous.size, device)

    left_s = max(1.0, until - time.monotonic())
    what = f"the connection of rank {rank} of {rendezvous.size} ({rendezvous.names[rank]})"
    communicator = within(left_s, connect, what=what)
    try:
        with aborted_after(left_s, communicator.destroy, what=what):
            _prove(communicator, rendezvous, rank=rank, device=device)
    except BaseException:  # also when interrupted: nobody else would destroy it
        communicator.destroy()
        raise
    return communicator


def is_available() -> bool:
    """Whether this machine can join a group: it has CUDA devices, or a test has replaced the communicator."""
    return has_substitute() or torch.cuda.is_available()


def has_substitute() -> bool:
    """Whether a test has replaced the communicator."""
    return bool(os.environ.get(SUBSTITUTE_VARIABLE))


def synchronize(device: torch.device) -> None:
    """Waits for the device; does nothing on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _factory() -> Callable[[Any, int, int, torch.device], Communicator]:
    named = os.environ.get(SUBSTITUTE_VARIABLE, "")
    if not named:
        return NcclCommunicator
    module, _, attribute = named.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _connect(rendezvous: Rendezvous) -> TCPStore:
    try:
        return TCPStore(
            rendezvous.address,
            rendezvous.port,
            is_master=False,
            wait_for_workers=False,
            timeout=timedelta(seconds=rendezvous.deadline_s),
        )
    except RuntimeError as error:  # torch's DistError among them
        where = f"{rendezvous.address}:{rendezvous.port}"
        raise TransferError(f"the learner's store at {where} cannot be reached: {error}") from error


def _meet(store: TCPStore, rendezvous: Rendezvous, *, rank: int, until: float) -> None:
    """Waits until every rank is there; nothing but this wait ends if one never comes."""
    keys = [f"rank-{index}" for index in range(rendezvous.size)]
    try:
        store.set(keys[rank], "here")
        while not store.check(keys):
            if time.monotonic() > until:
                absent = [i for i, key in enumerate(keys) if not store.check([key])]
                named = ", ".join(f"{rendezvous.names[i]} (rank {i})" for i in absent)
                raise TransferError(
                    f"{named} did not join the transfer of weights within {rendezvous.deadline_s:g} s "
                    "(cluster.sync_deadline_s)"
                )
            time.sleep(_POLL_S)
    except RuntimeError as error:
        raise TransferError(f"the learner's store has gone while the ranks met: {error}") from error


def _prove(communicator: Communicator, rendezvous: Rendezvous, *, rank: int, device: torch.device) -> None:
    sent = torch.tensor(list(rendezvous.token.to_bytes(_TOKEN_BYTES, "little")), dtype=torch.uint8, device=device)
    found = sent.clone() if rank == 0 else torch.zeros_like(sent)
    communicator.broadcast(found, src=0)
    synchronize(device)
    if not torch.equal(found, sent):
        raise TransferError(
            f"rank {rank} ({rendezvous.names[rank]}) received other bytes than the learner sent: the communicator "
            "carries nothing (NCCL is missing or disabled); set cluster.weight_transport=file"
        )
