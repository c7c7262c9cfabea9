"""The child process of `reward_model`: loads the model, then scores pairs until its parent closes the pipe.

parent -> child    {"op": "load", "scorer": {...}}                    -> loaded | failed
                   {"op": "score", "pairs": [{"messages", "completion"}]} -> scored
"""

import contextlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from rlvr.processes.frames import ParentPipe, encode


def answer(pipe: ParentPipe) -> None:
    """Answers the parent's messages; importing torch and loading the model count as loading."""
    first = pipe.receive()
    if first is None:
        return
    try:
        scorer = _loaded(first.body["scorer"])
    except Exception as error:  # noqa: BLE001 - transformers raises many kinds; the parent reports the reason
        pipe.send(encode({"op": "failed", "reason": _reason(error)}))
        return
    pipe.send(encode({"op": "loaded", "labels": scorer.labels, "max_input_tokens": scorer.max_input_tokens}))
    from rlvr_verifiers.reward_model.scorer import Pair

    while (frame := pipe.receive()) is not None:
        try:
            scored = scorer.score([Pair(**_without_surrogates(pair)) for pair in frame.body["pairs"]])
        except Exception as error:  # noqa: BLE001 - a template or a device may fail in any way; these pairs are ERROR
            pipe.send(encode({"op": "not_scored", "reason": _reason(error)}))
        else:
            pipe.send(encode({"op": "scored", "scores": [asdict(one) for one in scored]}))


def _loaded(settings: Mapping[str, Any]) -> Any:
    try:
        from transformers.utils import logging

        from rlvr_verifiers.reward_model.scorer import Scorer
    except ImportError as error:
        raise ImportError(f"{error}; a reward model needs torch and transformers") from error
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    return Scorer(**settings)


def _without_surrogates(value: Any) -> Any:
    """A JSON value with lone surrogates, which tokenizers refuse, replaced by question marks."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, list):
        return [_without_surrogates(one) for one in value]
    return {key: _without_surrogates(one) for key, one in value.items()} if isinstance(value, dict) else value


def _reason(error: Exception) -> str:
    return f"{'' if isinstance(error, ValueError) else f'{type(error).__name__}: '}{error}"[:2000]


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):  # the parent is gone
        answer(ParentPipe())
