"""What an adapter class adapts: the rest of a verifier name with a scheme, such as `trl:package.module.function`.

The entry-point group `rlvr.verifier_schemes` maps a scheme to a verifier class. The registry makes a subclass of it for
each name, with two class attributes: `name` (the whole name, which verdicts carry) and `adapted`, an `Adapted`.
A process that only builds the verifier must not import what is adapted, because it may be someone else's code: an
adapter calls `Adapted.load` in `warm_up` or `verify`, which run in a worker process.
"""

import importlib
import importlib.util
import linecache
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapted:
    """The parts of a verifier name with a scheme.

    name: as the recipe writes it. argument: what follows the scheme and its colon; of `path/file.py:attribute` only
    `file.py:attribute`, because the file travels as text.
    source: the text of that file (and `digest` its SHA-256), else empty.

    >>> Adapted(name="trl:my.rewards.short", scheme="trl", argument="my.rewards.short").argument
    'my.rewards.short'
    """

    name: str
    scheme: str
    argument: str
    source: str = ""
    digest: str = ""

    def load(self) -> Any:
        """The attribute that `argument` names: `file.py:attribute`, `module:attribute` or `module.attribute`.

        Raises: whatever the import raises; AttributeError when there is no such attribute.
        """
        dot = "." if ":" not in self.argument else ":"
        module_name, _, attribute = self.argument.rpartition(dot)
        if self.source:
            module = module_from_source(self.source, self.digest, module_name)
        else:
            module = importlib.import_module(module_name or attribute)
        return attribute_of(module, attribute)


def module_from_source(source: str, digest: str, file_name: str) -> ModuleType:
    """The module that a file's text makes, executed once for each digest.

    Args: file_name: shown in tracebacks.
    """
    name = f"rlvr_user_plugin_{digest[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_loader(name, loader=None)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    lines = source.splitlines(keepends=True)
    linecache.cache[file_name] = (len(source), None, lines, file_name)  # for tracebacks
    try:
        exec(compile(source, file_name, "exec"), module.__dict__)  # the user's own file
    except BaseException:  # raised again: a half-executed module must not be found by the next import
        del sys.modules[name]
        raise
    return module


def attribute_of(module: ModuleType, path: str) -> Any:
    """An attribute of a module, or of its attributes (`Class.method`). Raises AttributeError."""
    found: Any = module
    for part in path.split("."):
        found = getattr(found, part)
    return found
