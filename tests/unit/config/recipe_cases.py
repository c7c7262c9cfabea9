"""What several tests need of recipes: pieces that are refused, the keys that hold values, golden files."""

import difflib
import os
from pathlib import Path

from pydantic import BaseModel

from rlvr.config.document.paths import annotation_at, key_paths, words_in

# 12 levels of nine: a few hundred bytes that unfold to more than any memory holds
ALIASES = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)

DEFAULT = "  # default"


def leaf_paths(model: type[BaseModel]) -> tuple[str, ...]:
    """Every key that holds a value and not a section, as a dotted path; one that may be either counts as a value."""
    paths = key_paths(model)
    sections = {path[:i] for path in paths for i, letter in enumerate(path) if letter == "."}
    either = {path for path in sections if words_in(annotation_at(model, tuple(path.split("."))))}
    named = {f"{path}.kind" for path in either}
    return tuple(path for path in paths if (path not in sections or path in either) and path not in named)


def without_defaults(resolved: str) -> str:
    """The lines of a resolved recipe that hold a value which is no default, and the sections around them."""
    kept: list[str] = []
    for line in reversed(resolved.splitlines()):
        indent = len(line) - len(line.lstrip())
        is_section = line.endswith(":")
        has_kept = bool(kept) and len(kept[-1]) - len(kept[-1].lstrip()) > indent
        if has_kept if is_section else not line.endswith(DEFAULT) or line.lstrip().startswith("- "):
            kept.append(line)
    return "".join(f"{line}\n" for line in reversed(kept))


def assert_golden(text: str, golden: Path) -> None:
    """Fails with the difference and how to accept it; RLVR_UPDATE_GOLDEN=1 writes the file instead."""
    if os.environ.get("RLVR_UPDATE_GOLDEN") == "1":
        golden.parent.mkdir(parents=True, exist_ok=True)
        golden.write_text(text, encoding="utf-8")
    expected = golden.read_text(encoding="utf-8")
    difference = difflib.unified_diff(expected.splitlines(), text.splitlines(), golden.name, "now", n=1, lineterm="")
    assert text == expected, "\n".join([*difference, "If this is on purpose, run `make golden`."])
