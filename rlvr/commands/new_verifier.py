"""Writes a one-file verifier skeleton."""

import keyword
from pathlib import Path

from rlvr.errors import ConfigError

_TEXT = '''"""A verifier. In a recipe: `verifier: {name}.py:{name}`.

Try it on stored completions: `rlvr verify {name}.py:{name} --input FILE --output FILE`.
"""

from rlvr.plugin import verifier


@verifier(version="1")
def {name}(text: str, reference: str, *, ignore_case: bool = False) -> bool:
    """The completion ends with the reference.

    Return a bool, a score in [0, 1], or rlvr.plugin.verdict(...) with a readable reason. An exception is an ERROR,
    which is left out of the loss and raises an alarm; a wrong answer is False.
    """
    if ignore_case:
        text, reference = text.lower(), reference.lower()
    return text.strip().endswith(reference)
'''


def write_skeleton(name: str, *, folder: Path) -> Path:
    """Writes the file and returns its path. Raises ConfigError if the name is not a Python name or the file exists."""
    if not name.isidentifier() or keyword.iskeyword(name):
        raise ConfigError(f"{name!r} is not a Python name; use letters, digits and underscores")
    path = folder / f"{name}.py"
    if path.exists():
        raise ConfigError(f"{path.name} exists already; choose another name")
    path.write_text(_TEXT.format(name=name), encoding="utf-8")
    return path
