"""Hostile texts for a jailed scorer that evaluates them, and what of this machine they must not change."""

from pathlib import Path

import pytest

from rlvr.plugin import completion_from_text
from rlvr.records import Check, Execution, Prompt, Verdict
from rlvr.verification.service import VerifierService
from tests.unit.sandboxes.sandbox_cases import make

BACKENDS = ("namespaces", "landlock")
SCORER = '''
import sys
from rlvr.plugin import verifier

CALLS = []

@verifier(version="1")
def evaluates(text: str, reference: str) -> float:
    """Evaluates the text, as many scorers of others do."""
    CALLS.append(text)
    if text == "count":
        return 1.0 if str(len(CALLS)) == reference else 0.0
    try:
        found = eval(text, {"module": sys.modules[__name__]})
    except SyntaxError:
        names = {}
        exec(text, names)
        found = names.get("answer")
    return 1.0 if str(found) == reference else 0.0
'''


def hostile_texts(folder: Path, marker: str) -> dict[str, str]:
    """Texts that try to change the machine; each that reaches something of it has the answer 4 and would pass.

    folder: of the host, writable for everybody. marker: an argument of the processes that they leave.
    """
    there = str(folder)
    return {
        "writes a file": f"open({there + '/file'!r}, 'w').write('x') and 4",
        "writes to /tmp": "open('/tmp/rlvr-jail-test', 'w').write('x') and 4",
        "writes to the packages": (
            "import pydantic, os\nopen(os.path.dirname(pydantic.__file__) + '/evil.py', 'w')\nanswer = 4"
        ),
        "writes to rlvr": "import rlvr, os\nopen(os.path.dirname(rlvr.__file__) + '/evil.py', 'w')\nanswer = 4",
        "shell": f"__import__('os').system('touch {there}/shell') or 4",
        "reads /etc/passwd": "open('/etc/passwd').read() and 4",
        "reads a secret": "4 if 'a-secret' in str(dict(__import__('os').environ)) else 0",
        "reads the secret of its parents": (
            "import os\nanswer = 0\n"
            "for name in os.listdir('/proc'):\n"
            "    if name.isdigit():\n"
            "        try:\n"
            "            text = open(f'/proc/{name}/environ').read()\n"
            "        except OSError:\n"
            "            continue\n"
            "        answer = 4 if 'a-secret' in text else answer\n"
        ),
        "reads the folder of the run": f"__import__('os').listdir({there!r}) and 4",
        "opens a connection": "__import__('socket').create_connection(('127.0.0.1', 9), 1) and 4",
        "listens": "import socket\ns = socket.socket()\ns.bind(('127.0.0.1', 0))\ns.listen()\nanswer = 4",
        "kills its parents": (
            "import os, signal\nfor pid in (os.getppid(), 1):\n    try:\n        os.kill(pid, signal.SIGKILL)\n"
            "    except OSError:\n        pass\nanswer = 0"
        ),
        "traces": (
            "import ctypes, os\nptrace = ctypes.CDLL(None).ptrace\nanswer = 0 if ptrace(16, os.getppid(), 0, 0) else 4"
        ),
        "leaves a daemon": (
            "import os, subprocess, sys\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0:\n"
            f"        os.execv('/bin/sh', ['sh', '-c', 'sleep 600 # {marker}'])\n    os._exit(0)\nanswer = 0"
        ),
        "leaves a thread": (
            "import threading, time\nthreading.Thread(target=time.sleep, args=(600,)).start()\nanswer = 0"
        ),
        "fills the disk": "with open('big', 'wb') as file:\n    while True:\n        file.write(bytes(1 << 20))",
        "needs memory": "bytearray(1 << 36)",
        "exits": "__import__('os')._exit(0)",
        "floods the pipe": (
            "import os\nfor fd in range(3, 20):\n    try:\n        os.write(fd, b'x' * 9999)\n    except OSError:\n"
            "        pass"
        ),
        "becomes root": "import os\nos.setuid(0)\nos.mknod('/tmp/w/device', 0o60666, os.makedev(8, 0))\nanswer = 4",
    }


def the_check(scorer: Path, name: str = "evaluates", **fields: object) -> Check:
    """A jailed check of a scorer in a file."""
    given: dict[str, object] = {"execution": Execution.JAILED, "reference": "4", **fields}
    return Check(name="main", verifier=f"{scorer}:{name}", **given)  # type: ignore[arg-type]


def service_for(backend: str, *, workers: int = 1, deadline_s: float = 5.0) -> VerifierService:
    """A service whose sandbox is not tested first; skips where the machine lacks what it needs."""
    make(backend)
    return VerifierService(workers, deadline_s, (backend, {"slots": 2, "preimport": [], "should_self_test": False}))


def verdicts(service: VerifierService, check: Check, texts: list[str]) -> list[Verdict]:
    """The verdict of each text, in order."""
    prompt = Prompt(prompt_id="row", text="?", checks=(check,), source="test")
    pairs = [(prompt, completion_from_text(text, prompt_id="row")) for text in texts]
    return [found[check.name] for found in service.verify_batch(pairs)]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)
