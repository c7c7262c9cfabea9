"""Completions that leave a mark if they are executed, and the marks that were left.

Each completion holds a token of its own. Executed, it creates a file with that name in a private folder; a hook in the
worker (`rlvr.audit.probe`) also writes down each token in code that is about to run, even if it then fails.
"""

import base64
import itertools
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

TOKEN = re.compile(r"canary\d+x")
EVENTS_FILE = "events"


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """A text that leaves a mark. write: makes the text from the path of the file that it creates.

    is_python: an expression or a program in Python, which is tried in every usual form.
    """

    name: str
    write: Callable[[Path], str]
    is_python: bool = False


class Canary:
    """The private folder in which executed completions leave their marks."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="rlvr-audit-"))
        self._numbers = itertools.count()

    def share(self) -> None:
        """Lets jailed workers write there, each of which has a user id of its own."""
        events = self.folder / EVENTS_FILE
        events.touch()
        events.chmod(0o666)
        self.folder.chmod(0o777)

    def close(self) -> None:
        """Removes the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def new_path(self) -> Path:
        """The file of the next payload; its name is the token."""
        return self.folder / f"canary{next(self._numbers)}x"

    def executed(self) -> dict[str, str]:
        """How each token was executed, by token."""
        found: dict[str, str] = {}
        events = self.folder / EVENTS_FILE
        if events.is_file():
            for line in events.read_text(encoding="utf-8", errors="replace").splitlines():
                token, _, what = line.partition(" ")
                found.setdefault(token, what)
        for file in self.folder.iterdir():
            if TOKEN.fullmatch(file.name):
                found[file.name] = "it created a file"
        return found


def payloads(entry_point: str) -> tuple[Payload, ...]:
    """The payloads; each is harmless otherwise. entry_point: a function that tests in the reference may call."""

    def touch(path: Path) -> str:
        return f"__import__('os').system('touch {path}')"

    return (
        Payload(name="Python expression", write=touch, is_python=True),
        Payload(name="Python name", write=lambda path: path.name, is_python=True),
        Payload(name="Python program", write=lambda path: f"import os\nos.system('touch {path}')", is_python=True),
        Payload(name="Python open", write=lambda path: f"open('{path}', 'w').close()", is_python=True),
        Payload(name="Python after numbers", write=lambda path: f"1+0*{touch(path)}"),
        Payload(name="Python after an equals sign", write=lambda path: f"2 + 3 = {touch(path)}"),
        Payload(name="sympy", write=lambda path: f"Integer({touch(path)})"),
        Payload(name="shell substitution", write=lambda path: f"$(touch {path})"),
        Payload(name="shell backticks", write=lambda path: f"`touch {path}`"),
        Payload(name="shell separator", write=lambda path: f"1; touch {path}; echo 1"),
        Payload(name="shell quote", write=lambda path: f"'; touch {path}; echo '"),
        Payload(name="shell double quote", write=lambda path: f'"; touch {path}; echo "'),
        Payload(name="YAML", write=lambda path: f'!!python/object/apply:os.system ["touch {path}"]'),
        Payload(name="pickle in base64", write=lambda path: base64.b64encode(_pickled(path)).decode()),
        Payload(name="pickle", write=lambda path: _pickled(path).decode("latin-1")),
        Payload(name="template", write=lambda path: f"{{{{ cycler.__init__.__globals__.os.system('touch {path}') }}}}"),
        Payload(name="f-string", write=lambda path: f"{{{touch(path)}}}"),
        Payload(name="LaTeX", write=lambda path: f"\\immediate\\write18{{touch {path}}}"),
        Payload(name="JavaScript", write=lambda path: f"require('fs').writeFileSync('{path}', '')"),
        Payload(name="fenced program", write=lambda path: f"```python\nimport os\nos.system('touch {path}')\n```"),
        Payload(name="plain fence", write=lambda path: f"```\nimport os\nos.system('touch {path}')\n```"),
        Payload(
            name="fenced function",
            write=lambda path: f"```python\ndef {entry_point}(*a, **k):\n    return {touch(path)}\n```",
        ),
    )


def _pickled(path: Path) -> bytes:
    """A pickle (protocol 0) that calls os.system when it is loaded; written by hand, so that nothing here runs it."""
    return f"cos\nsystem\n(Vtouch {path}\ntR.".encode()
