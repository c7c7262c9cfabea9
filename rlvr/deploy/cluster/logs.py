"""The logs of a run on the hosts of a cluster, merged.

head host   all of RUN_DIR/logs, what the run says about lost processes, and the host's own folder
the others  their own folder only: what they wrote because they do not see the run directory
"""

import json
import queue
import subprocess
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlvr.deploy.cluster.inventory import Host, Inventory, Runtime
from rlvr.deploy.cluster.node_commands import in_node, python_of
from rlvr.deploy.cluster.remote import Remote, each, named, script
from rlvr.errors import ClusterError, ConfigError
from rlvr.telemetry.log_query import LogQuery

_READER = "rlvr.telemetry.log_reader"
_READ_S = 120.0
_NEWEST = """
ls -td -- "$1"/runs/*/ 2>/dev/null | while IFS= read -r folder; do
    if [ -f "$folder/events.jsonl" ]; then printf '%s\\n' "$folder"; exit; fi
done
"""
_NOT_RUN = "Ray has not run there"
# Ray's own files, where a node's container writes nothing or there is no container. Only the head has gcs_server.out.
_RAY = f"""
cd "${{RAY_TMPDIR:-/tmp}}/ray/session_latest/logs" 2>/dev/null || {{ echo "{_NOT_RUN}" >&2; exit 1; }}
tail -n "$1" gcs_server.out raylet.out raylet.err 2>/dev/null
exit 0
"""


@dataclass(slots=True)
class Found:
    """What hosts have of a run. actors: how each process was lost, "" if it was not. problems: of unreachable hosts."""

    run_id: str = ""
    actors: dict[str, str] = field(default_factory=dict[str, str])
    records: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    problems: list[str] = field(default_factory=list[str])


class ClusterLogs:
    """Reads logs on the hosts of an inventory."""

    def __init__(self, inventory: Inventory, *, remote: Remote | None = None) -> None:
        self._inventory = inventory
        self._remote = remote or Remote(inventory.ssh_options)

    def run_dir(self, run: str) -> str:
        """The run directory, as a path on the hosts. Args: run: a path, or a name below SHARED/runs; "": the newest.

        Raises: ConfigError when there is no run; ClusterError when the head host cannot be reached.
        """
        if run:
            return run if run.startswith("/") else f"{self._inventory.shared}/runs/{run}"
        done = self._remote.run(self._inventory.head, script(_NEWEST, self._inventory.shared), deadline_s=30.0)
        if not done.stdout.strip():
            raise ConfigError(f"there is no run below {self._inventory.shared}/runs on {named(self._inventory.head)}")
        return done.stdout.strip().rstrip("/")

    def read(self, run_dir: str, query: LogQuery) -> Found:
        """The wanted records of all hosts, in order of time.

        Raises: ClusterError when the head host cannot be reached or has no such run.
        """
        head, *others = self._inventory.hosts
        found = Found()
        self._read_host(head, self._words(head, run_dir, query), found)

        def read(host: Host) -> None:
            self._read_host(host, self._words(host, run_dir, query, run_id=found.run_id), found)

        # A host that is down must not hide what the others say.
        found.problems += [str(error) for error in each(others, read) if error is not None]
        unique = {json.dumps(row, sort_keys=True): row for row in found.records}
        found.records = sorted(unique.values(), key=lambda row: row["time"])
        return found

    def follow(self, run_dir: str, query: LogQuery, *, run_id: str) -> Iterator[dict[str, Any]]:
        """The wanted records of all hosts as they are written, until every host's reader has ended."""
        rows: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        readers = [
            self._remote.stream(host, self._words(host, run_dir, query, run_id="" if not i else run_id, follow=True))
            for i, host in enumerate(self._inventory.hosts)
        ]

        is_over = threading.Event()

        def pump(reader: "subprocess.Popen[bytes]") -> None:
            assert reader.stdout is not None
            for line in reader.stdout:
                if is_over.is_set():  # closing the pipe ends the reader, whose next write fails
                    reader.stdout.close()
                    return
                row = _row(line)
                if row is not None and "time" in row:
                    rows.put(row)
            rows.put(None)

        for reader in readers:
            threading.Thread(target=pump, args=(reader,), daemon=True).start()
        left = len(readers)
        try:
            while left:
                row = rows.get()
                if row is None:
                    left -= 1
                else:
                    yield row
        finally:
            is_over.set()
            for reader in readers:
                reader.kill()
                reader.wait()

    def node_output(self, hosts: Sequence[Host], *, num_lines: int, since: str) -> Iterator[str]:
        """The output of nodes: of their containers, and the end of Ray's own files. Args: since: as for --since.

        Hosts without any are named at the end. Raises: ClusterError when no host has any.
        """
        problems: list[str] = []
        for host in hosts:
            try:
                lines = self._output(host, num_lines=num_lines, since=since)
            except ClusterError as error:
                problems.append(str(error))
                continue
            yield f"{named(host)}:"
            yield from (f"  {line}" for line in lines)
        if len(problems) == len(hosts):
            raise ClusterError("\n".join(problems))
        yield from problems

    def _output(self, host: Host, *, num_lines: int, since: str) -> list[str]:
        """Raises: ClusterError when the host cannot be reached, or no node was started there."""
        done = [
            self._remote.run(host, words, deadline_s=_READ_S)
            for words in self._output_words(host, num_lines=num_lines, since=since)
        ]
        if all(part.code for part in done):
            reason = done[0].reason
            if reason == _NOT_RUN or "no such container" in reason.lower():
                reason = f"{_NOT_RUN}; `rlvr cluster up` starts it"
            raise ClusterError(f"{named(host)}: {reason}")
        return [line for part in done for line in (part.stdout + part.stderr).splitlines()]

    def _output_words(self, host: Host, *, num_lines: int, since: str) -> list[list[str]]:
        ray = in_node(self._inventory, host, script(_RAY, str(num_lines)))
        runtime = self._inventory.runtime
        if runtime is Runtime.HOST:
            return [ray]
        shown = [runtime.value, "logs", "--tail", str(num_lines), *(["--since", since] if since else [])]
        return [[*shown, self._inventory.container_of(host)], ray]

    def _words(self, host: Host, run_dir: str, query: LogQuery, *, run_id: str = "", follow: bool = False) -> list[str]:
        """The command that reads on a host. Args: run_id: for hosts other than the head's."""
        options = [*(["--node-only", run_id] if run_id else []), *(["--follow"] if follow else [])]
        words = [python_of(self._inventory), "-m", _READER, run_dir, query.to_text(), *options]
        return in_node(self._inventory, host, words)

    def _read_host(self, host: Host, words: Sequence[str], found: Found) -> None:
        done = self._remote.run(host, words, deadline_s=_READ_S)
        first, *rows = [row for line in done.stdout.splitlines() if (row := _row(line)) is not None] or [{}]
        if done.code or "run_id" not in first:
            raise ClusterError(f"{named(host)}: the logs cannot be read: {done.reason}")
        found.run_id = found.run_id or first["run_id"]
        for name, how in first["actors"].items():  # the head host is read first, and knows about losses
            found.actors.setdefault(name, how)
        found.records += rows


def _row(line: str | bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None
