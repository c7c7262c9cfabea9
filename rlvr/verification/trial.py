"""Imports a user's plugin in a separate process before this one imports it.

A file may hang at import, end its process (`os._exit`), crash it, or exhaust memory. In a run's own process that would
end the run silently, so the first import happens in a worker under a deadline, and only its answer counts.
"""

import sys
from dataclasses import asdict
from typing import Any

from rlvr.errors import PluginError
from rlvr.processes.frames import encode
from rlvr.registry import PluginSource, load
from rlvr.verification.dispatcher import CPU_LIMIT_ENDING
from rlvr.verification.worker_process import WorkerLost, WorkerProcess

CPU_DEADLINE_S = 10.0  # of CPU time without a further import
WALL_DEADLINE_S = 60.0
# Written memory: address space is no measure, because GPU libraries map much of it. Importing torch needs 0.2 GiB,
# torch with transformers, datasets and sympy 0.5.
_DATA_BYTES = 768 << 20
_ADDRESS_SPACE_BYTES = 1 << 42  # effectively unlimited
_tried: set[PluginSource] = set()


def load_tried(source: PluginSource) -> Any:
    """The plugin's class from `registry.load`, after a trial import if the user named a file or a module.

    An adapter of a scheme is installed and does not import what it adapts, so it needs no trial.

    Raises: PluginError, which names the file, and the line if known.
    """
    if ":" in source.name and not source.scheme and source not in _tried and not _is_imported(source):
        _try_import(source)
        _tried.add(source)
    return load(source)


def _is_imported(source: PluginSource) -> bool:
    return not source.source and source.target.rpartition(":")[0] in sys.modules


def _try_import(source: PluginSource) -> None:
    worker = WorkerProcess.start(memory_bytes=_ADDRESS_SPACE_BYTES)
    bounds = {"cpu_deadline_s": CPU_DEADLINE_S, "wall_deadline_s": WALL_DEADLINE_S}
    bounds["data_bytes"] = _DATA_BYTES
    try:
        worker.wait_ready(WALL_DEADLINE_S)
        worker.send(encode({"op": "load", "plugin": asdict(source), **bounds}))
        reply = worker.receive(WALL_DEADLINE_S + 5.0)
    except WorkerLost as lost:
        ending = worker.kill()
        how = str(lost) if lost.cause == "timeout" else f"it ended the process ({ending})"
        if ending == CPU_LIMIT_ENDING:
            how = f"it took more than {CPU_DEADLINE_S:g} s of CPU time"
        raise PluginError(
            f"plugin {source.name!r} failed to load: during its import {how}; a plugin's import must finish "
            "and must not call os._exit"
        ) from lost
    finally:
        worker.kill()
        worker.close_pipes()
    if reply["op"] != "loaded":
        raise PluginError(reply["reason"])
