"""The suite of attacks and honest programs for `code`: its rows, the host that they must not touch, and their verdicts.

A row: `id`, `category`, `why`, `kind` (stdio or function), `prompt_tests` (the reference), `completion`, `limits`,
`expected_pass`; a long text may be written {"repeat": text, "times": n}. For attacks also `plants` (a variable or a
file of the host whose content is the right answer) and `side_effect_check` (what must not have happened afterwards).
Rows that need something of the machine or the backend name it in `needs`.
"""

import asyncio
import contextlib
import json
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlvr.contracts.box import children_of_this_process, open_descriptors
from rlvr.plugin import VerifierContext, completion_from_text
from rlvr.protocols import Sandbox, Verifier
from rlvr.records import Check, Prompt, Status, Verdict
from rlvr.registry import VERIFIERS, build_verifier, find

FOLDER = Path(__file__).parents[1] / "golden" / "code"
VERIFIER = "rlvr_verifiers.code_answer:CodeVerifier"
SHARED_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm", "/", "/etc", "/usr/local", "/root")
ANSWER = "rlvr-suite-answer-91c4e7"
MARK = "rlvr_suite"
TCP_PORT, UDP_PORT = 48211, 48212
ABSTRACT_SOCKET, SOCKET_PATH = "\0rlvr-suite-abstract", "/tmp/rlvr_suite/socket"
SLOT_UIDS = range(60000, 61000)


def read_rows(name: str) -> list[dict[str, Any]]:
    """The rows of `attacks` or `honest`."""
    lines = (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def reference_of(row: dict[str, Any]) -> dict[str, Any]:
    """The row's reference, as a data set holds it."""
    reference: dict[str, Any] = {"kind": row["kind"], "limits": row["limits"]}
    if "checker" in row:
        reference["checker"] = row["checker"]
    if row["kind"] == "function":
        return reference | row["prompt_tests"]
    tests = [{key: _written_out(text) for key, text in test.items()} for test in row["prompt_tests"]]
    return reference | {"tests": tests}


def _written_out(text: Any) -> str:
    return text if isinstance(text, str) else text["repeat"] * text["times"]


def make_verifier(sandbox: Sandbox) -> Verifier:
    """The verifier `code`, for both languages."""
    settings = {"languages": ["python", "cpp"]}
    return build_verifier(find(VERIFIERS, VERIFIER), settings, VerifierContext(sandbox=sandbox))


async def verify_row(verifier: Verifier, row: dict[str, Any]) -> Verdict:
    """The verdict on one row, its code fenced as a model would."""
    text = f"```{row['language']}\n{row['completion']}```\n"
    reference = reference_of(row)
    verifier.parse_reference(reference)  # type: ignore[attr-defined] # `code` has it
    check = Check(name="main", verifier="code", reference=reference)
    prompt = Prompt(prompt_id=row["id"], checks=(check,), source="suite", text="?")
    completion = completion_from_text(text, prompt_id=row["id"])
    return await verifier.verify(prompt, completion)  # type: ignore[misc] # `code` is asynchronous


async def verify_rows(sandbox: Sandbox, rows: Sequence[dict[str, Any]], *, at_once: int = 4) -> list[Verdict]:
    """The verdict on each row, a few at a time."""
    verifier = make_verifier(sandbox)
    gate = asyncio.Semaphore(at_once)

    async def verify(row: dict[str, Any]) -> Verdict:
        async with gate:
            return await verify_row(verifier, row)

    return list(await asyncio.gather(*(verify(row) for row in rows)))


def wrong_verdicts(rows: Sequence[dict[str, Any]], verdicts: Iterable[Verdict]) -> list[str]:
    """One line for each row with a wrong verdict. For an attack an ERROR is wrong too."""
    wrong: list[str] = []
    for row, verdict in zip(rows, verdicts, strict=True):
        is_right = (
            verdict.status is Status.PASS if row["expected_pass"] else verdict.status in (Status.FAIL, Status.UNPARSED)
        )
        if not is_right:
            wrong.append(f"{row['id']} ({row['category']}: {row['why']}): {verdict.status.name}: {verdict.reason}")
    return wrong


@dataclass
class Host:
    """The state of this machine that the suite inspects in addition to its verdicts."""

    connections: dict[str, int] = field(default_factory=dict[str, int])
    entries: set[str] = field(default_factory=set[str])
    objects: set[str] = field(default_factory=set[str])
    clock: float = 0.0
    name: str = ""
    scratch: Path = Path("/nonexistent")
    num_descriptors: int = 0
    children: set[int] = field(default_factory=set[int])

    def note(self) -> None:
        """Remembers how things stand."""
        self.entries = _entries()
        self.objects = _system_v_objects()
        self.clock = time.time() - time.monotonic()
        self.name = socket.gethostname()
        self.num_descriptors = open_descriptors()
        self.children = children_of_this_process()

    def effects_of(self, row: dict[str, Any]) -> list[str]:
        """What a row did to the host, though it must not."""
        check: dict[str, Any] = row.get("side_effect_check", {})
        found: list[str] = []
        if "file_absent" in check and os.path.lexists(check["file_absent"]):
            found.append(f"made {check['file_absent']}")
        if "file_unchanged" in check:
            path = Path(check["file_unchanged"])
            if not path.is_file() or path.read_text() != row["plants"]["text"]:
                found.append(f"changed {path}")
        if "no_process_with_arg" in check and _processes_with(check["no_process_with_arg"]):
            found.append(f"left a process {check['no_process_with_arg']}")
        for key in check:
            if key.startswith(("no_connection_", "no_datagram_")) and self.connections.get(key):
                found.append(f"reached the host: {key}")
        return [f"{row['id']} ({row['why']}): {what}" for what in found]

    def changes(self) -> list[str]:
        """What is different since `note`; ask when the sandbox is closed."""
        found: list[str] = []
        found += [f"new on the host: {path}" for path in sorted(_entries() - self.entries)]
        found += [f"left by a box: {path}" for path in self.scratch.iterdir()]
        found += [f"left in the kernel: {item}" for item in sorted(_system_v_objects() - self.objects)]
        found += [f"still runs: {pid}" for pid in _processes_with(MARK)]
        found += [f"child left: {pid}" for pid in children_of_this_process() - self.children]
        if abs(time.time() - time.monotonic() - self.clock) > 0.5:
            found.append("the clock was set")
        if socket.gethostname() != self.name:
            found.append(f"the host is now called {socket.gethostname()!r}")
        if open_descriptors() > self.num_descriptors + 4:
            found.append(f"{open_descriptors() - self.num_descriptors} descriptors stay open")
        for folder in Path("/sys/fs/cgroup").glob(f"*/rlvr*-{os.getpid()}-*"):
            found.append(f"control group left: {folder}")
        return found


def _entries() -> set[str]:
    """Names in shared folders that are of the suite, or belong to a box's user."""
    found: set[str] = set()
    for folder in SHARED_FOLDERS:
        try:
            entries = list(os.scandir(folder))
        except OSError:
            continue
        for entry in entries:
            is_ours = entry.name.startswith(MARK)
            with contextlib.suppress(OSError):
                if is_ours or entry.stat(follow_symlinks=False).st_uid in SLOT_UIDS:
                    found.add(entry.path)
    return found


def _system_v_objects() -> set[str]:
    """System V objects with the suite's keys (0x524c5652 to 54) or of a box's user."""
    found: set[str] = set()
    for kind in ("shm", "sem", "msg"):
        with contextlib.suppress(OSError), open(f"/proc/sysvipc/{kind}") as table:
            names, *rows = [line.split() for line in table]
            for row in rows:
                fields = dict(zip(names, row, strict=False))
                is_key = int(fields["key"]) in range(0x524C5652, 0x524C5655)
                if is_key or int(fields["uid"]) in SLOT_UIDS:
                    found.add(f"{kind} {row[0]} {row[1]}")
    return found


def _processes_with(argument: str) -> list[int]:
    """Living processes with that argument; a killed one gets a moment to end."""
    end = time.monotonic() + 1.0
    while True:
        found: list[int] = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                arguments = path.read_bytes().split(b"\0")
                if any(word.startswith(argument.encode()) for word in arguments):
                    found.append(int(path.parent.name))
        if not found or time.monotonic() > end:
            return found
        time.sleep(0.05)


@contextlib.contextmanager
def planted_host() -> Generator[Host]:
    """Within it, the variables, files and sockets that attacks look for are on this machine."""
    host = Host()
    folder, scratch = Path("/tmp/rlvr_suite"), tempfile.mkdtemp(prefix="rlvr-suite-")
    os.chmod(scratch, 0o755)  # the boxes' folders lie in it, and their users must reach them
    old_scratch, tempfile.tempdir = tempfile.tempdir, scratch
    folder.mkdir(exist_ok=True)
    folder.chmod(0o777)
    (folder / "answer.txt").write_text(ANSWER + "\n")
    (folder / "keep.txt").write_text("kept\n")
    for file in folder.glob("*.txt"):
        file.chmod(0o666)
    os.environ["RLVR_SUITE_MARK"] = ANSWER
    stop = threading.Event()
    with contextlib.ExitStack() as stack:
        listeners = {
            f"no_connection_to_port {TCP_PORT}": socket.create_server(("127.0.0.1", TCP_PORT)),
            f"no_datagram_to_port {UDP_PORT}": socket.socket(socket.AF_INET, socket.SOCK_DGRAM),
            "no_connection_to_abstract": socket.socket(socket.AF_UNIX),
            "no_connection_to_path": socket.socket(socket.AF_UNIX),
        }
        for listener in listeners.values():
            stack.enter_context(listener)
            listener.settimeout(0.1)
        listeners[f"no_datagram_to_port {UDP_PORT}"].bind(("127.0.0.1", UDP_PORT))
        listeners["no_connection_to_abstract"].bind(ABSTRACT_SOCKET)
        Path(SOCKET_PATH).unlink(missing_ok=True)
        listeners["no_connection_to_path"].bind(SOCKET_PATH)
        Path(SOCKET_PATH).chmod(0o777)
        threads = [
            threading.Thread(target=_answer, args=(key.split()[0], listener, host, stop))
            for key, listener in listeners.items()
        ]
        for thread in threads:
            thread.start()
        try:
            host.scratch = Path(scratch)
            host.note()
            yield host
        finally:
            stop.set()
            for thread in threads:
                thread.join()
            del os.environ["RLVR_SUITE_MARK"]
            tempfile.tempdir = old_scratch
            shutil.rmtree(scratch)
            for path in (*folder.glob("*.txt"), Path(SOCKET_PATH)):
                path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                folder.rmdir()


def _answer(key: str, listener: socket.socket, host: Host, stop: threading.Event) -> None:
    """Gives the right answer to whoever reaches this socket, and counts it."""
    if listener.type != socket.SOCK_DGRAM and listener.family == socket.AF_UNIX:
        listener.listen()
    while not stop.is_set():
        try:
            if listener.type == socket.SOCK_DGRAM:
                _, address = listener.recvfrom(100)
                listener.sendto(ANSWER.encode(), address)
            else:
                with listener.accept()[0] as connection:
                    connection.sendall(ANSWER.encode())
        except TimeoutError:
            continue
        except OSError:
            continue
        host.connections[key] = host.connections.get(key, 0) + 1
