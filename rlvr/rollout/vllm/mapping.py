"""Translates requests to vLLM's terms and its outputs to completions. Plain values; vLLM is not needed."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from rlvr.errors import RolloutError
from rlvr.protocols import GenerationRequest
from rlvr.records import Completion, FinishReason

LEAST_TEMPERATURE = 0.01  # vLLM silently raises a smaller one to this
SCORE_PREFIX = "rlvr-score:"  # of request ids whose rows must have their own step
_REASONS = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH, "abort": FinishReason.ABORT}


class VersionSpan(Protocol):
    """Tokens [start, end) that one version of the weights sampled."""

    @property
    def version(self) -> str: ...
    @property
    def start(self) -> int: ...
    @property
    def end(self) -> int: ...


class FlatLogprobs(Protocol):
    """vLLM's flat list: position i holds the entries [start_indices[i], end_indices[i]); the chosen token is first."""

    start_indices: list[int]
    end_indices: list[int]
    logprobs: list[float]


class Output(Protocol):
    """The fields read from vLLM's `CompletionOutput`."""

    token_ids: Sequence[int]
    logprobs: Any
    finish_reason: str | None
    weight_versions: Sequence[Any] | None


def sampling_arguments(request: GenerationRequest, *, stop_token_ids: Sequence[int]) -> dict[str, Any]:
    """Keyword arguments of vLLM's `SamplingParams`.

    Only the tokens and strings named here end a completion (`ignore_eos` disables those of the model's folder), and
    they stay in it. `logprobs=0` reports only the chosen token.

    Raises: RolloutError on a temperature that vLLM would change.
    """
    sampling = request.sampling
    if 0 < sampling.temperature < LEAST_TEMPERATURE:
        raise RolloutError(
            f"request {request.request_id!r}: temperature={sampling.temperature} is below {LEAST_TEMPERATURE}, and "
            "vLLM would silently raise it; use 0 for greedy decoding"
        )
    return {
        "n": 1,
        "temperature": sampling.temperature,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": 0.0,
        "seed": request.seed % 2**63,
        "max_tokens": sampling.max_tokens,
        "stop_token_ids": list(dict.fromkeys((*stop_token_ids, *sampling.stop_token_ids))),
        "stop": list(sampling.stop_strings),
        "ignore_eos": True,
        "include_stop_str_in_output": True,
        "detokenize": bool(sampling.stop_strings),
        "skip_special_tokens": False,  # a stop string may be a tag that is a special token
        "logprobs": 0,
        "flat_logprobs": True,
    }


def scoring_arguments() -> dict[str, Any]:
    """Keyword arguments of `SamplingParams` for teacher-forced log-probs at temperature 1; one token is discarded.

    They are computed from the model's logits, before any temperature. Such a request reads no cached prefix.
    """
    return {
        "n": 1,
        "temperature": 0.0,
        "max_tokens": 1,
        "ignore_eos": True,
        "prompt_logprobs": 0,
        "detokenize": False,
        "flat_logprobs": True,
        "skip_reading_prefix_cache": True,
    }


def completion_of(request: GenerationRequest, output: Output, *, to_text: Callable[[Sequence[int]], str]) -> Completion:
    """The completion from vLLM's last output for `request`.

    Raises: RolloutError when its finish reason is unknown, or log-probs or versions are missing.
    """
    reason = _REASONS.get(output.finish_reason or "")
    if reason is None:
        raise RolloutError(
            f"request {request.request_id!r}: vLLM ended it with finish_reason={output.finish_reason!r}; expected one "
            f"of {', '.join(_REASONS)}"
        )
    token_ids = tuple(int(token) for token in output.token_ids)
    count = len(token_ids)
    return Completion(
        completion_id=request.request_id,
        prompt_id=request.prompt_id,
        sample_index=request.sample_index,
        prompt_token_ids=request.prefix_token_ids,
        token_ids=token_ids,
        logprobs=chosen_logprobs(output.logprobs, count=count) if count else (),
        sampled_mask=(True,) * count,
        text=to_text(token_ids),
        finish_reason=reason,
        policy_versions=versions_of(output.weight_versions, count=count),
    )


def chosen_logprobs(flat: FlatLogprobs | None, *, count: int) -> tuple[float, ...]:
    """The chosen token's log-prob at each of the first `count` positions (a stop string may drop tokens at the end).

    Raises: RolloutError when there are fewer.
    """
    starts = [] if flat is None else flat.start_indices
    if flat is None or len(starts) < count:
        raise RolloutError(f"vLLM returned {len(starts)} log-probs for {count} tokens")
    return tuple(flat.logprobs[start] for start in starts[:count])


def prompt_logprobs(flat: FlatLogprobs | None, *, count: int) -> list[float]:
    """Log-probs of a row's tokens but the first. Raises RolloutError unless there are `count` of them."""
    if flat is None:
        raise RolloutError("vLLM returned no prompt log-probs")
    filled = [s for s, e in zip(flat.start_indices, flat.end_indices, strict=True) if e > s]
    if len(filled) != count:
        raise RolloutError(f"vLLM returned {len(filled)} prompt log-probs; expected {count}")
    return [flat.logprobs[start] for start in filled]


def shape_problems(found: Mapping[str, Sequence[int]], expected: Mapping[str, Sequence[int]]) -> list[str]:
    """One line for each tensor that is not in the model, has another shape, or is missing.

    >>> shape_problems({"a": [2], "b": [1]}, {"a": [3], "b": [1]})
    ["'a' has shape (2,); expected (3,)"]
    """
    problems: list[str] = []
    for name, shape in found.items():
        if name not in expected:
            problems.append(f"{name!r} is not in the model")
        elif tuple(shape) != tuple(expected[name]):
            problems.append(f"{name!r} has shape {tuple(shape)}; expected {tuple(expected[name])}")
    return problems + [f"{name!r} is missing" for name in expected if name not in found]


def versions_of(spans: Sequence[VersionSpan] | None, *, count: int) -> tuple[int, ...]:
    """The policy version of each token, from vLLM's spans.

    Raises: RolloutError when a token has none.

    >>> from types import SimpleNamespace as Span
    >>> versions_of([Span(version="3", start=0, end=2), Span(version="4", start=2, end=3)], count=3)
    (3, 3, 4)
    """
    versions: list[int] = []
    for span in spans or ():
        if span.start == len(versions) and span.version.isdecimal():
            versions.extend([int(span.version)] * (span.end - span.start))
    if len(versions) < count:
        raise RolloutError(f"vLLM returned weight versions for {len(versions)} of {count} tokens; spans: {spans!r}")
    return tuple(versions[:count])
