"""Builds adapters in this process, as a worker does."""

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from rlvr.plugin import VerifierContext, completion_from_text
from rlvr.records import Check, Completion, FinishReason, Message, Prompt, Verdict
from rlvr.registry import VERIFIERS, build_verifier, find

HERE = Path(__file__).parent
VERL = Path(os.environ.get("RLVR_VERL", f"{sys.prefix}/share/verl"), "verl", "utils", "reward_score")
CHAT = (Message(role="user", content="What is 1/3 + 1/3?"),)


def stored(name: str, folder: Path) -> Path:
    """A reward file of this folder, as a Python file in another."""
    path = folder / name
    path.write_text((HERE / f"{name}.txt").read_text(encoding="utf-8"), encoding="utf-8")
    return path


def verl_file(name: str) -> Path:
    """A file of verl's `utils/reward_score`; skips the test where verl is not installed."""
    path = VERL / f"{name}.py"
    if not path.is_file():
        pytest.skip(f"verl is not installed in {VERL.parents[2]} (`make setup` does that)")
    return path


def built(name: str, **settings: Any) -> Any:
    """The verifier of a name with a scheme, ready for items."""
    verifier: Any = build_verifier(find(VERIFIERS, name), settings, VerifierContext())
    verifier.warm_up()
    return verifier


def prompt_of(
    verifier: Any, reference: object = None, *, messages: tuple[Message, ...] = CHAT, text: str = "", **tags: Any
) -> Prompt:
    """A prompt with one check, as verifiers receive it."""
    check = Check(name="c", verifier=verifier.name, reference=reference)
    shown = () if text else messages
    return Prompt(prompt_id="p", text=text, messages=shown, checks=(check,), source="rows", tags=tags)


def tokens(text: str, num_tokens: int) -> Completion:
    """A completion with token ids, as in a run."""
    return Completion(
        completion_id="p/0",
        prompt_id="p",
        sample_index=0,
        prompt_token_ids=(),
        token_ids=tuple(range(num_tokens)),
        logprobs=(-1.0,) * num_tokens,
        sampled_mask=(True,) * num_tokens,
        text=text,
        finish_reason=FinishReason.STOP,
        policy_versions=(0,) * num_tokens,
    )


def verdict_on(verifier: Any, completion: str, reference: object = None, **row: Any) -> Verdict:
    """The verdict on one completion; `row` has the columns, and `text` for a prompt that is no chat."""
    return verifier.verify(prompt_of(verifier, reference, **row), completion_from_text(completion, prompt_id="p"))
