"""Suggestions for an unknown key: another trainer's name, a key of another kind or section, or a typo."""

import difflib
from collections.abc import Iterable, Sequence

from pydantic import BaseModel, JsonValue

from rlvr.config.document.document_type import RECIPE, DocumentType
from rlvr.config.document.kinds import KIND
from rlvr.config.document.paths import annotation_at, key_paths, kinds, sections_in
from rlvr.config.document.yaml_lines import KeyPath, dotted, value_at
from rlvr.config.messages.hints import answer


def close(word: str, options: Iterable[str], *, cutoff: float = 0.6) -> list[str]:
    """The option nearest to the word, or none."""
    return difflib.get_close_matches(word, list(options), n=1, cutoff=cutoff)


def did_you_mean(options: Sequence[str]) -> str:
    """The end of a message.

    >>> did_you_mean(["seed"])
    '; did you mean seed?'
    """
    return f"; did you mean {' or '.join(options)}?" if options else ""


def listed(words: Sequence[str], last: str) -> str:
    """The words as an English list.

    >>> listed(["a", "b", "c"], "or")
    'a, b or c'
    """
    return f" {last} ".join(filter(None, (", ".join(words[:-1]), words[-1])))


class Suggestions:
    """Answers for one model and the values that were read for it."""

    def __init__(self, model: type[BaseModel], values: JsonValue, type: DocumentType = RECIPE) -> None:
        self.model = model
        self.type = type
        self.values = values
        self.known = key_paths(model)

    def unknown(self, path: KeyPath, value: JsonValue, *, is_typed: bool) -> list[tuple[KeyPath, str]]:
        """Messages for the unknown key at `path`: one (path, text), or one for each peer's name below it.

        Args:
            is_typed: the key is from the command line, and its `value` holds the rest of the key.
        """
        of_other_kind = self._of_other_kind(path)
        if of_other_kind:
            return [(path, of_other_kind)]
        leaves = list(_leaves(value, path))
        answers = [
            (leaf, text)
            for leaf in leaves
            if self.type.knows_peers and (text := answer(dotted(leaf), value_at(value, leaf[len(path) :])))
        ]
        if answers:
            return [(leaf, f"unknown key; {text}") for leaf, text in answers]
        # for an override such as `rolout.group_size=4` the suggestion includes the rest of the key
        rest = dotted(leaves[0])[len(dotted(path)) :] if is_typed and leaves else ""
        return [(path, f"unknown key{self._meant(path, rest)}")]

    def siblings(self, parent: KeyPath) -> list[str]:
        """The keys of the section at `parent`, or of its kind if it is a union."""
        annotation = annotation_at(self.model, parent)
        arms = kinds(annotation)
        if arms:
            return list(arms.get(self._kind(parent), next(iter(arms.values()))).model_fields)
        sections = sections_in(annotation) or (self.model,)
        return [key for section in sections for key in section.model_fields]

    def _kind(self, parent: KeyPath) -> str:
        """The kind of the union at `parent`; empty when none is written."""
        value = value_at(self.values, parent)
        return str(value[KIND]) if isinstance(value, dict) and KIND in value else ""

    def _of_other_kind(self, path: KeyPath) -> str:
        """The message for a key that other kinds of the union have; empty for any other key."""
        key, parent = str(path[-1]), path[:-1]
        arms = kinds(annotation_at(self.model, parent))
        owners = [kind for kind, section in arms.items() if key in section.model_fields]
        if not owners:
            return ""
        written = self._kind(parent)
        own = f"kind {written}" if written else f"kind {next(iter(arms))} (the default)"
        plural = "kinds" if len(owners) > 1 else "kind"
        return (
            f"a key of {plural} {listed(owners, 'and')}, not of {own}; remove it, or set "
            f"{dotted((*parent, KIND))}={' or '.join(owners)}"
        )

    def _meant(self, path: KeyPath, rest: str) -> str:
        key, parent = str(path[-1]), path[:-1]
        elsewhere = self._ending_in(key)
        if elsewhere:
            return did_you_mean(elsewhere)
        siblings = self.siblings(parent)
        near = close(key, siblings)
        if near:
            full = dotted((*parent, near[0]))
            is_deeper = annotation_at(self.model, (*parent, near[0], *rest.split(".")[1:]))
            return did_you_mean([full + (rest if is_deeper is not None else "")])
        for kind, section in kinds(annotation_at(self.model, parent)).items():
            near = close(key, section.model_fields, cutoff=0.8)
            if near:
                return f"; did you mean {dotted((*parent, near[0]))}, a key of kind {kind}?"
        last_parts = [known.rpartition(".")[2] for known in self.known]
        far = close(key, last_parts, cutoff=0.8)
        if far:
            return did_you_mean(self._ending_in(far[0]))
        return f"; {self._owner(parent)} has the keys {', '.join(siblings)}"

    def _owner(self, parent: KeyPath) -> str:
        kind = self._kind(parent) if kinds(annotation_at(self.model, parent)) else ""
        return f"{dotted(parent) or self.type.noun}{f' of kind {kind}' if kind else ''}"

    def _ending_in(self, key: str) -> list[str]:
        return [known for known in self.known if known.rpartition(".")[2] == key][:3]


def _leaves(value: JsonValue, path: KeyPath) -> Iterable[KeyPath]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, (*path, key))
    else:
        yield path
