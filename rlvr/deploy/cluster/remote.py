"""Commands on the hosts of a cluster: over ssh, or on this machine for a host without an ssh destination.

Words are quoted for the remote shell, so a command means the same on every host. Secrets go through standard input,
because the words are visible to every user of a host.
"""

import json
import shlex
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from rlvr.deploy.cluster.inventory import Host
from rlvr.errors import ClusterError

_DEFAULTS = ("-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=15",
             "-o", "ServerAliveCountMax=4")  # fmt: skip
_SSH_FAILED = 255
_MOST_AT_ONCE = 64
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Done:
    """A command that has ended. code: its exit code."""

    code: int
    stdout: str
    stderr: str

    @property
    def reason(self) -> str:
        """The last line that it wrote on standard error, else on standard output, else its exit code."""
        lines = (self.stderr.strip() or self.stdout.strip()).splitlines()
        return lines[-1].strip() if lines else f"exit code {self.code}"

    def json_line(self) -> Any:
        """The last line of standard output, as JSON; Ray may print others before it.

        Raises: ClusterError with the end of the output when that is none.

        >>> Done(0, 'noise\\n{"busy": 1}\\n', "").json_line()
        {'busy': 1}
        """
        lines = self.stdout.strip().splitlines()
        try:
            return json.loads(lines[-1])
        except (IndexError, ValueError) as error:
            raise ClusterError(f"it answered {self.stdout.strip()[-200:]!r} instead of a line of JSON") from error


class Remote:
    """Runs commands on hosts.

    ssh_options: of the inventory. They come before the defaults, because ssh takes the first value of an option.
    """

    def __init__(self, ssh_options: Sequence[str] = ()) -> None:
        self._options = tuple(ssh_options)

    def run(self, host: Host, words: Sequence[str], *, stdin: bytes = b"", deadline_s: float = 60.0) -> Done:
        """Runs a command to its end. A host without ssh gets the words as they are.

        Raises: ClusterError when the host cannot be reached, the program is missing here, or the deadline passes.
        """
        try:
            done = subprocess.run(
                self._words(host, words), input=stdin, capture_output=True, timeout=deadline_s, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise ClusterError(f"{named(host)}: no answer to `{words[0]}` within {deadline_s:g} s") from error
        except OSError as error:
            raise ClusterError(
                f"{named(host)}: {error.filename or words[0]} does not start: {error.strerror}"
            ) from error
        found = Done(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))
        if host.ssh and done.returncode == _SSH_FAILED:
            raise ClusterError(f"{named(host)} cannot be reached by ssh: {found.reason}")
        return found

    def stream(self, host: Host, words: Sequence[str]) -> "subprocess.Popen[bytes]":
        """Starts a command whose output is read while it runs: standard output and error together, no input.

        Raises: ClusterError when the program is missing here.
        """
        try:
            return subprocess.Popen(
                self._words(host, words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
        except OSError as error:
            raise ClusterError(
                f"{named(host)}: {error.filename or words[0]} does not start: {error.strerror}"
            ) from error

    def _words(self, host: Host, words: Sequence[str]) -> list[str]:
        if not host.ssh:
            return list(words)
        return ["ssh", "-T", *self._options, *_DEFAULTS, "--", host.ssh, shlex.join(words)]


def named(host: Host) -> str:
    """A host as messages name it."""
    return f"host {host.name} ({host.ssh or 'this machine'})"


def on_all(hosts: Sequence[Host], work: Callable[[Host], T]) -> list[T]:
    """What `work` returns for each host, in the hosts' order; all hosts are worked on at once.

    Raises: ClusterError with every host's problem, one per line, after all have ended.
    """
    results = each(hosts, work)
    failed = [result for result in results if isinstance(result, ClusterError)]
    if failed:
        raise ClusterError("\n".join(str(error) for error in failed))
    return [result for result in results if not isinstance(result, ClusterError)]


def each(hosts: Sequence[Host], work: Callable[[Host], T]) -> list[T | ClusterError]:
    """What `work` returns for each host, or the ClusterError that it raises; all hosts are worked on at once."""

    def attempt(host: Host) -> T | ClusterError:
        try:
            return work(host)
        except ClusterError as error:
            return error

    with ThreadPoolExecutor(min(_MOST_AT_ONCE, max(1, len(hosts)))) as pool:
        return list(pool.map(attempt, hosts))


def script(text: str, *arguments: str) -> list[str]:
    """Words that run a POSIX shell script with arguments `$1`, `$2` and so on.

    >>> script("echo $1", "a b")
    ['sh', '-c', 'echo $1', 'rlvr', 'a b']
    """
    return ["sh", "-c", text, "rlvr", *arguments]
