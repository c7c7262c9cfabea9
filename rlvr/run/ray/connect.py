"""A Ray cluster for one run: a private one on this machine, or the one that `cluster.address` names.

A private one has no dashboard, a random token that every connection must present, an object store of fixed size, and
its sockets and logs in a folder that only this user can enter. It listens only on the loopback interface. It ends with
the run, however the run ends. A joined cluster keeps running; only this run's actors end.
"""

import ipaddress
import logging
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from ray import exceptions as ray_errors
from ray._private import ray_constants, services, worker
from ray._raylet import (
    AuthenticationTokenLoader,  # type: ignore # compiled, without a stub
    Config,  # type: ignore # the same
    GcsClient,  # type: ignore # the same
)

from rlvr.config.sections.cluster import ClusterConfig
from rlvr.errors import ConfigError, Interrupted
from rlvr.processes import watchdog
from rlvr.processes.environment import environment_restored
from rlvr.run.ray import environment
from rlvr.run.ray.nodes.head_watch import ASK_S, HeadWatch

logger = logging.getLogger(__name__)
OBJECT_STORE_BYTES = 512 << 20  # batches and completions pass through it; weights do not
_TOKEN_BYTES = 32
_PREFIX = "rlvr-ray-"
_KILL_S = 2.0
_watches: list[HeadWatch] = []  # at most one: a process has one connection
_MAX_PLACE = 20  # characters: a socket path may have 107, and Ray appends about 70 to the folder's


@contextmanager
def connected(config: ClusterConfig, *, logs: Path | None = None) -> Iterator[HeadWatch]:
    """Context in which this process drives a Ray cluster; its value watches the head.

    Args: logs: folder for the logs of a private cluster when the context ends with an error; None: discard them.

    Raises: ConfigError when the cluster cannot be reached or refuses the connection.
    """
    variables = _private_environment() if not config.address else {}
    with ExitStack() as stack:
        stack.enter_context(environment_restored(*variables))
        os.environ.update(variables)
        if variables:
            _read_environment_again()
        stack.callback(_forget_watch)
        if config.address:
            stack.callback(ray.shutdown)
            _join(config)
        else:
            folder = stack.enter_context(_private_folder(logs))
            stack.callback(ray.shutdown)
            _start(folder, config)
        head = _watch_head()
        stack.callback(head.rest)
        yield head


def head_is_gone() -> bool:
    """Whether the head of this process's cluster is gone: calls to it would wait until Ray ends the caller."""
    return _own_head_ended() or any(head.is_lost for head in _watches)


def end_actor(actor: Any) -> None:
    """Ends an actor as `end_actors` does."""
    end_actors([actor])


def end_actors(actors: Iterable[Any]) -> None:
    """Ends actors at once, even frozen ones; does nothing when the head is gone, and the actors' nodes end them.

    Waits for at most `_KILL_S` for all of them: a head that is about to be found lost does not answer.
    """
    if head_is_gone():
        return
    kills: list[threading.Thread] = []
    for actor in actors:
        killing = threading.Thread(target=_kill, args=(actor,), name="rlvr-kill", daemon=True)
        try:
            killing.start()
        except RuntimeError as error:  # the interpreter is ending; the actors end with their owner
            logger.debug("an actor was not ended: %s", error)
            break
        kills.append(killing)
    until = time.monotonic() + _KILL_S
    for killing in kills:
        killing.join(max(0.0, until - time.monotonic()))


def _kill(actor: Any) -> None:
    try:
        ray.kill(actor)
    except Exception as error:  # noqa: BLE001 - whatever Ray raises when it has been shut down or the actor is gone
        logger.debug("an actor was not ended: %s", error)


def _watch_head() -> HeadWatch:
    here: Any = worker.global_worker
    client = here.gcs_client

    def session() -> str:
        return str(client.internal_kv_get(b"session_name", b"session", timeout=ASK_S))

    _watches.append(HeadWatch(session, address=client.address, is_dead=_own_head_ended))
    return _watches[-1]


def _forget_watch() -> None:
    while _watches:
        _watches.pop().close()


def _own_head_ended() -> bool:
    node: Any = worker._global_node
    if node is None or not node.is_head():
        return False
    started: Any = node.all_processes.get(ray_constants.PROCESS_TYPE_GCS_SERVER, [])
    return any(head.process.poll() is not None for head in started)


@contextmanager
def _private_folder(logs: Path | None) -> Iterator[Path]:
    """A folder for sockets and logs, closed to other users. At its end, even by a kill, its users are ended too.

    Ray opens its folder to all users, so it gets a subfolder.
    """
    place = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
    place = place if len(place) <= _MAX_PLACE else "/tmp"
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
    watchdog.guard(folder, with_users=True)
    try:
        yield folder
    except Interrupted:
        raise
    except Exception:
        if logs is not None:
            with suppress(OSError):  # the original error matters more
                shutil.copytree(_inside(folder) / "session_latest/logs", logs, dirs_exist_ok=True)
        raise
    finally:
        watchdog.end_users(folder)
        shutil.rmtree(folder, ignore_errors=True)
        watchdog.forget(folder)


def _inside(folder: Path) -> Path:
    return folder / "r"


def _private_environment() -> dict[str, str]:
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(_TOKEN_BYTES),
        "RAY_USAGE_STATS_ENABLED": "0",
        "AUTOSCALER_METRIC_PORT": "0",  # any free port; the default is the same for all runs of a machine
        # longer than `HeadWatch` needs to end the run; waiting a minute for a head that is not coming back is pointless
        "RAY_gcs_rpc_server_reconnect_timeout_s": "40",
    }


def _read_environment_again() -> None:
    """Makes Ray read its authentication settings again; it reads them at import and caches the token."""
    AuthenticationTokenLoader.instance().reset_cache()
    Config.initialize("")


def _start(folder: Path, config: ClusterConfig) -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    shared = Path("/dev/shm")
    free = shutil.disk_usage(shared).free if shared.is_dir() else OBJECT_STORE_BYTES
    if environment.is_job():
        logger.warning(
            "this process is a job of a Ray cluster, but cluster.address is empty: the run starts a private Ray beside "
            "it and uses this machine only. cluster.address=auto uses the cluster"
        )
    with _loopback_stays(), _named_for_children(folder), environment.outside_of_job():
        _init(
            config,
            address="local",
            num_cpus=cores,
            object_store_memory=max(80 << 20, min(OBJECT_STORE_BYTES, free // 4)),
            include_dashboard=False,
            _node_ip_address="127.0.0.1",
            _temp_dir=str(_inside(folder)),
        )


@contextmanager
def _loopback_stays() -> Iterator[None]:
    """Context in which Ray keeps 127.0.0.1 as its address; otherwise it would listen on the machine's own address."""
    original = services.resolve_ip_for_localhost
    services.resolve_ip_for_localhost = lambda host: host
    try:
        yield
    finally:
        services.resolve_ip_for_localhost = original


@contextmanager
def _named_for_children(folder: Path) -> Iterator[None]:
    """Context in which child processes and their descendants are marked as users of the folder."""
    os.environ[watchdog.FOLDER_OF] = str(folder)
    try:
        yield
    finally:
        del os.environ[watchdog.FOLDER_OF]


def _join(config: ClusterConfig) -> None:
    address = config.address
    named = os.environ.get("RAY_ADDRESS", "")
    if address == "auto" and named.startswith("ray://"):
        raise ConfigError(
            f"cluster.address=auto means RAY_ADDRESS={named!r}, an address of Ray Client, which a run cannot use. "
            "Unset RAY_ADDRESS on a node of the cluster, or submit the run with `ray job submit`"
        )
    try:
        with environment.as_driver_of_job():
            _require_admission(address)
            _init(config, address=address)
    except (ConnectionError, RuntimeError, ValueError, ray_errors.RayError) as error:
        raise ConfigError(
            f"cluster.address={address!r} cannot be joined: {_first_lines(error)}. Is the head running "
            "(`ray status --address ...`), and are RAY_AUTH_MODE and RAY_AUTH_TOKEN_PATH (or RAY_AUTH_TOKEN) here "
            "those of the cluster?"
        ) from error
    if os.environ.get("RAY_AUTH_MODE") != "token" and not _is_loopback(address):
        logger.warning(
            "the cluster at %s accepts connections without a token: anyone who reaches its ports can run code on it; "
            "start it with RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH (or RAY_AUTH_TOKEN) on every node",
            address,
        )


def _require_admission(address: str) -> None:
    """Asks the head for a sign of life: it refuses another token at once, while `ray.init` asks again for minutes.

    Raises: ray_errors.RayError when it refuses or does not answer; ConnectionError when "auto" finds no cluster.
    """
    head = services.canonicalize_bootstrap_address(address) if address == "auto" else address
    if head:
        GcsClient(address=head)


def _init(config: ClusterConfig, **arguments: Any) -> None:
    ray.init(
        namespace=f"rlvr-{secrets.token_hex(4)}",
        log_to_driver=False,
        logging_level=logging.ERROR,
        configure_logging=False,
        runtime_env=environment.runtime_env(config),
        **arguments,
    )


def _is_loopback(address: str) -> bool:
    host = address.rpartition(":")[0] or address
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _first_lines(error: BaseException) -> str:
    return " ".join(str(error).strip().splitlines()[:2]) or type(error).__name__
