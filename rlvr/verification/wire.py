"""The messages between the pool and its workers, as JSON values of the frames of `rlvr.processes.frames`."""

import os
import sysconfig
import traceback
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rlvr.errors import PluginError
from rlvr.protocols import SupportsParseReference, Verifier
from rlvr.records import Check, Completion, Execution, FinishReason, Message, Prompt, Role, Status, Verdict
from rlvr.registry import PluginSource

_CORE = str(Path(__file__).parents[1]) + os.sep
_PYTHON = sysconfig.get_path("stdlib")
_INSTALLED = "site-packages"
_ADAPTERS = os.path.join("rlvr_verifiers", "adapters") + os.sep
_MAX_FRAMES = 6  # of a plugin, in a verdict
MEMORY_EXIT_CODE = 87  # exit code after a MemoryError, which leaves a process in an unknown state


def source_from_json(data: dict[str, Any]) -> PluginSource:
    """The PluginSource that `dataclasses.asdict` wrote."""
    return PluginSource(**data)


def prompt_to_json(prompt: Prompt) -> dict[str, Any]:
    """The prompt as JSON values."""
    return asdict(prompt)


def prompt_from_json(data: dict[str, Any]) -> Prompt:
    """The prompt that `prompt_to_json` wrote (tuples inside JSON values come back as lists)."""
    checks = tuple(_check_from_json(check) for check in data["checks"])
    messages = tuple(Message(**message) for message in data["messages"])
    return Prompt(**{**data, "checks": checks, "messages": messages})


def _check_from_json(data: dict[str, Any]) -> Check:
    execution = data["execution"]
    return Check(
        **{
            **data,
            "role": Role(data["role"]),
            "execution": None if execution is None else Execution(execution),
            "readable": tuple(data["readable"]),
        }
    )


_TUPLES = ("prompt_token_ids", "token_ids", "logprobs", "sampled_mask", "policy_versions")


def completion_to_json(completion: Completion) -> dict[str, Any]:
    """The completion as JSON values; not by `asdict`, which copies each token."""
    return {
        "completion_id": completion.completion_id,
        "prompt_id": completion.prompt_id,
        "sample_index": completion.sample_index,
        "text": completion.text,
        "finish_reason": completion.finish_reason,
        **{name: getattr(completion, name) for name in _TUPLES},
    }


def completion_from_json(data: dict[str, Any]) -> Completion:
    """The completion that `completion_to_json` wrote."""
    tuples = {name: tuple(data[name]) for name in _TUPLES}
    return Completion(**{**data, **tuples, "finish_reason": FinishReason(data["finish_reason"])})


def verdict_to_json(verdict: Verdict) -> dict[str, Any]:
    """The verdict as JSON values."""
    return {
        "status": verdict.status,
        "score": verdict.score,
        "reason": verdict.reason,
        "verifier": verdict.verifier,
        "seconds": verdict.seconds,
        "extracted": verdict.extracted,
        "details": dict(verdict.details),
    }


_VERDICT_TYPES: dict[str, Any] = {
    "status": str,
    "score": float | int | None,
    "reason": str,
    "verifier": str,
    "seconds": float | int,
    "extracted": str | None,
    "details": dict,
}


def verdict_from_json(data: dict[str, Any]) -> Verdict:
    """The verdict that `verdict_to_json` wrote.

    Raises: KeyError, TypeError or ValueError when it is none; the policy's text may have written it.
    """
    for key, kind in _VERDICT_TYPES.items():
        if not isinstance(data[key], kind):
            raise TypeError(f"{key} of a verdict is a {type(data[key]).__name__}")
    return Verdict(**{**data, "status": Status(data["status"])})


def error_verdict(label: str, error: BaseException, *, seconds: float = 0.0) -> Verdict:
    """An ERROR verdict with a plugin's exception, the line that raised it, and the plugin's last frames.

    `details["traceback"]` has no frame of rlvr; a PluginError is the core's refusal of an answer and carries its own
    place.
    """
    frames = _own_frames(error)
    text = str(error)[:500]
    is_refusal = isinstance(error, PluginError)
    what = f": {text}" if is_refusal else f" raised {type(error).__name__}: {text}{_place(frames)}"
    shown = [*traceback.format_list(frames[-_MAX_FRAMES:]), *traceback.format_exception_only(error)]
    return Verdict(
        status=Status.ERROR,
        score=None,
        reason=f"{label}{what}",
        verifier=label,
        seconds=seconds,
        details={"exception": type(error).__name__, "traceback": "".join(shown)[-2000:]},
    )


def _own_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """The frames outside rlvr and Python, and outside installed libraries too if there are any such."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not _is_foreign(f.filename)]
    return [f for f in frames if _INSTALLED not in f.filename] or frames


def _place(frames: Sequence[traceback.FrameSummary]) -> str:
    """ " (file.py:12, in check: the line)" of the innermost frame; "" if there is none."""
    if not frames:
        return ""
    frame = frames[-1]
    line = f": {frame.line[:120]}" if frame.line else ""
    return f" ({frame.filename}:{frame.lineno}, in {frame.name}{line})"


def _is_foreign(file: str) -> bool:
    """Whether the file belongs to rlvr's core, to an adapter of other people's code, or to Python itself."""
    is_python = file.startswith(_PYTHON) and _INSTALLED not in file
    return is_python or _ADAPTERS in file or file.startswith((_CORE, "<frozen "))


def label_of(verifier: Verifier) -> str:
    """`name@version`, as verdicts carry it."""
    return f"{verifier.name}@{verifier.version}"


def facts_of(verifier: Verifier) -> dict[str, Any]:
    """What a process that does not build the verifier has to know about it, as JSON values."""
    return {
        "execution": str(verifier.execution),
        "partial_credit": float(getattr(verifier, "partial_credit", 0.0)),
        "is_graded": bool(getattr(verifier, "is_graded", False)),
        "parses_references": isinstance(verifier, SupportsParseReference),
    }


def as_verdict(label: str, answer: object, *, seconds: float) -> Verdict:
    """The verifier's answer if it is a Verdict, with the time it took unless it sets that itself.

    Raises: PluginError for anything else.
    """
    if isinstance(answer, Verdict):
        return answer if answer.seconds else replace(answer, seconds=seconds)
    raise PluginError(
        f"returned {answer!r:.200} of type {type(answer).__name__}; verify must return a Verdict (rlvr.plugin.verdict "
        "makes one)"
    )
