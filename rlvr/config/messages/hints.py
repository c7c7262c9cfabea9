"""Answers for keys that rlvr does not have: another trainer's name for one, or rejected on purpose."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from rlvr.config.document.packaged import read_table


@dataclass(frozen=True, slots=True)
class PeerName:
    """A name of another trainer.

    key: the full path in a recipe. remark: where the meaning differs.
    """

    peers: str
    key: str
    remark: str = ""

    def answer(self, name: str) -> str:
        """The message for this name."""
        remark = f"; {self.remark}" if self.remark else ""
        return f"did you mean {self.key}? {name} is its name in {self.peers}{remark}"


@cache
def peer_names() -> Mapping[str, PeerName]:
    """Other trainers' names by name, from `peer_names.yaml`."""
    found: dict[str, PeerName] = {}
    for key, names in read_table(Path(__file__).with_name("peer_names.yaml")).items():
        for name, meaning in names.items():
            peers, remark = (meaning, "") if isinstance(meaning, str) else meaning
            found[name] = PeerName(peers, key, remark)
    return found


@dataclass(frozen=True, slots=True)
class Refused:
    """A key that rlvr does not offer on purpose.

    off: the values that leave it off. why: what it would break. instead: what to do.
    """

    off: tuple[object, ...]
    why: str
    instead: str

    def answer(self, name: str, value: object) -> str:
        """The message for this key and value.

        >>> Refused(off=(1.0,), why="it skews", instead="use another").answer("top_p", 1)
        'top_p=1 is what rlvr always does; remove it'
        """
        if value in self.off:
            return f"{name}={value!r} is what rlvr always does; remove it"
        return f"{name}={value!r} is refused, because {self.why}; {self.instead}"


_TRUNCATED = (
    "the learner's log-probs are those of the full distribution, so every ratio would be biased "
    "(at top_p=0.8 a peer measured a mean ratio of 0.896)"
)
_PENALISED = "the learner's log-probs are of the model's own distribution, so every ratio would be biased"
_DROPPED = "dropout makes the learner's log-probs random, so every ratio would be noisy"
_TEMPERATURE = "use rollout.temperature"
_NOT_SAMPLED = "training completions are always sampled, never decoded greedily"

REFUSED: dict[str, Refused] = {
    "top_p": Refused((1.0,), _TRUNCATED, _TEMPERATURE),
    "top_k": Refused((-1, 0, None), _TRUNCATED, _TEMPERATURE),
    "min_p": Refused((0.0, None), _TRUNCATED, _TEMPERATURE),
    "typical_p": Refused((1.0, None), _TRUNCATED, _TEMPERATURE),
    "repetition_penalty": Refused((1.0,), _PENALISED, _TEMPERATURE),
    "frequency_penalty": Refused((0.0,), _PENALISED, _TEMPERATURE),
    "presence_penalty": Refused((0.0,), _PENALISED, _TEMPERATURE),
    "min_new_tokens": Refused((0, None), _PENALISED, "let a verifier or the reward encourage length"),
    "min_tokens": Refused((0, None), _PENALISED, "let a verifier or the reward encourage length"),
    "do_sample": Refused((True,), _NOT_SAMPLED, _TEMPERATURE),
    "greedy": Refused((False,), _NOT_SAMPLED, _TEMPERATURE),
    "lora_dropout": Refused((0.0,), _DROPPED, "use learner.weight_decay"),
    "lora.dropout": Refused((0.0,), _DROPPED, "use learner.weight_decay"),
    "disable_dropout": Refused((True,), _DROPPED, "use learner.weight_decay"),
}


def answer(path: str, value: object) -> str:
    """The message for another trainer's key; empty for a key that no trainer has.

    >>> answer("rollout.top_p", 1.0)
    'top_p=1.0 is what rlvr always does; remove it'
    """
    for end in _endings(path):
        if end in peer_names():
            return peer_names()[end].answer(end)
        if end in REFUSED:
            return REFUSED[end].answer(end, value)
    return ""


def _endings(path: str) -> list[str]:
    """The dotted endings of a path, the longest first."""
    parts = path.split(".")
    return [".".join(parts[start:]) for start in range(len(parts))]
