"""What several tests need of recipes: pieces that are refused, and the keys that hold values."""

from pydantic import BaseModel

from rlvr.config.document.paths import key_paths

# 12 levels of nine: a few hundred bytes that unfold to more than any memory holds
ALIASES = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)


def leaf_paths(model: type[BaseModel]) -> tuple[str, ...]:
    """Every key that holds a value and not a section, as a dotted path."""
    paths = key_paths(model)
    sections = {path[:i] for path in paths for i, letter in enumerate(path) if letter == "."}
    return tuple(path for path in paths if path not in sections)
