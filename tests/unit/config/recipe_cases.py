"""What several tests need of recipes: pieces that are refused, and the keys that hold values."""

from pydantic import BaseModel

from rlvr.config.document.paths import annotation_at, key_paths, words_in

# 12 levels of nine: a few hundred bytes that unfold to more than any memory holds
ALIASES = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)


def leaf_paths(model: type[BaseModel]) -> tuple[str, ...]:
    """Every key that holds a value and not a section, as a dotted path; one that may be either counts as a value."""
    paths = key_paths(model)
    sections = {path[:i] for path in paths for i, letter in enumerate(path) if letter == "."}
    either = {path for path in sections if words_in(annotation_at(model, tuple(path.split("."))))}
    named = {f"{path}.kind" for path in either}
    return tuple(
        path for path in paths if (path not in sections or path in either) and path not in named
    )
