"""A user's plugin is imported in a process of its own before this one imports it.

A file may hang at import, end its process (`os._exit`), crash it, or take all memory. In the process of a run that
would end the run without a word, so the first import happens in a worker, under a deadline, and only its answer counts.
"""

import sys
from dataclasses import asdict
from typing import Any

from rlvr.errors import PluginError
from rlvr.registry import PluginSource, load
from rlvr.verification.dispatcher import CPU_LIMIT_ENDING
from rlvr.verification.wire import frame
from rlvr.verification.worker_process import WorkerLost, WorkerProcess

CPU_DEADLINE_S = 10.0  # of processor time without a further import
WALL_DEADLINE_S = 60.0
_DATA_BYTES = (
    2 << 30
)  # written memory; address space is no measure, because libraries for a GPU map much of it
_ADDRESS_SPACE_BYTES = 1 << 42  # no bound
_tried: set[PluginSource] = set()


def load_tried(source: PluginSource) -> Any:
    """The plugin's class, as `registry.load` gives it, after a trial import where a user named a file or a module.

    Raises: PluginError that names the file, and the line where it is known.
    """
    if ":" in source.name and source not in _tried and not _is_imported(source):
        _try_import(source)
        _tried.add(source)
    return load(source)


def _is_imported(source: PluginSource) -> bool:
    return not source.source and source.target.rpartition(":")[0] in sys.modules


def _try_import(source: PluginSource) -> None:
    worker = WorkerProcess(memory_bytes=_ADDRESS_SPACE_BYTES)
    bounds = {"cpu_deadline_s": CPU_DEADLINE_S, "wall_deadline_s": WALL_DEADLINE_S}
    bounds["data_bytes"] = _DATA_BYTES
    try:
        worker.wait_ready(WALL_DEADLINE_S)
        worker.send(frame({"op": "load", "plugin": asdict(source), **bounds}))
        reply = worker.receive(WALL_DEADLINE_S + 5.0)
    except WorkerLost as lost:
        ending = worker.kill()
        how = str(lost) if lost.cause == "timeout" else f"it ended the process ({ending})"
        if ending == CPU_LIMIT_ENDING:
            how = f"it took more than {CPU_DEADLINE_S:g} s of processor time"
        raise PluginError(
            f"plugin {source.name!r} failed to load: while it was imported {how}; a plugin must come to its end when "
            "it is imported, and must not call os._exit"
        ) from lost
    finally:
        worker.kill()
        worker.close_pipes()
    if reply["op"] != "loaded":
        raise PluginError(reply["reason"])
