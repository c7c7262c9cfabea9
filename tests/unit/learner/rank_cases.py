"""Runs a function on several ranks over gloo, in forked processes: no import is repeated, so a test takes a second."""

import multiprocessing
import os
import pickle
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import FileStore  # type: ignore[reportPrivateImportUsage] # its documented place

_LIMIT_S = 60.0


def run_ranks(function: Callable[..., Any], *arguments: Any, folder: Path, size: int = 2) -> list[Any]:
    """`function(*arguments)` on every rank of a process group; the results by rank, which must pickle."""
    context = multiprocessing.get_context("fork")
    store = folder / f"store-{len(list(folder.glob('store-*')))}"
    ends: list[Connection] = []
    processes = []
    for rank in range(size):
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_run, args=(function, arguments, store, rank, size, theirs), daemon=True)
        process.start()
        theirs.close()
        ends.append(ours)
        processes.append(process)
    try:
        results: list[Any] = []
        for rank, end in enumerate(ends):
            assert end.poll(_LIMIT_S), f"rank {rank} gave no result within {_LIMIT_S:.0f} s"
            is_done, result = pickle.loads(end.recv_bytes())
            assert is_done, f"rank {rank}:\n{result}"
            results.append(result)
        return results
    finally:
        for process in processes:
            process.kill()
            process.join()


def _run(
    function: Callable[..., Any], arguments: tuple[Any, ...], store: Path, rank: int, size: int, end: Connection
) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    try:
        dist.init_process_group(
            "gloo", store=FileStore(str(store), size), rank=rank, world_size=size, timeout=timedelta(seconds=_LIMIT_S)
        )
        result = function(*arguments)
        dist.barrier()
        end.send_bytes(pickle.dumps((True, result)))  # torch's own pickling would pass descriptors
    except BaseException:  # noqa: BLE001 - process boundary: the test gets the traceback
        end.send_bytes(pickle.dumps((False, traceback.format_exc())))
    finally:
        end.close()
        os._exit(0)
