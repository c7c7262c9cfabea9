"""The records that flow through a run. Standard library only, so a verifier can be written without torch.

    Prompt -> Completion -> Verdict -> Rollout -> Group        (tensors begin later, in `rlvr.batch`)

All are frozen, slotted and keyword-only; each checks its invariants on construction. G samples a prompt, P prompt
tokens, T completion tokens. A worked example:

>>> check = Check(name="main", verifier="text_match", reference="4")
>>> prompt = Prompt(prompt_id="sums/0", text="2 + 2 =", checks=(check,), source="sums")
>>> prompt.reference
'4'
>>> Verdict(status=Status.PASS, score=1.0, reason="equal", verifier="text_match@2", seconds=0.0).passed
True
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

Json = Any  # a JSON value; the only open type
_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}  # of a number


class Role(StrEnum):
    """The effect of a check's verdict: it adds to the reward, vetoes it, or is only recorded."""

    REWARD = "reward"
    GATE = "gate"
    SHADOW = "shadow"


class Status(StrEnum):
    """The outcome of one verification.

    ERROR and SKIPPED have no score, which is not a zero. ERROR: the checker failed. SKIPPED: the check does not apply
    to this row, so it counts neither for nor against the completion.
    """

    PASS = "pass"
    FAIL = "fail"
    UNPARSED = "unparsed"
    ERROR = "error"
    SKIPPED = "skipped"

    @property
    def has_score(self) -> bool:
        """Whether a verdict of this status has a score."""
        return self not in (Status.ERROR, Status.SKIPPED)


class FinishReason(StrEnum):
    """Why a completion ended: a stop token, the length limit, or an abort by the engine."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"


class Transport(StrEnum):
    """How weights travel from learner to engine."""

    SHARED = "shared"  # the engine reads the learner's own tensors
    IN_PLACE_COPY = "in_place_copy"  # a copy in the same process, refreshed in place
    FILE = "file"  # a safetensors file in shared memory, copied to engines on other nodes
    NCCL = "nccl"  # broadcast from the learner's device to those of the engines
    IPC = "ipc"  # through memory of the device that learner and engine share

    @property
    def is_sent(self) -> bool:
        """Whether the learner sends the weights while the engines load them; they exist nowhere else."""
        return self in (Transport.NCCL, Transport.IPC)


class WeightsKind(StrEnum):
    """The content of a publication."""

    FULL = "full"
    ADAPTER = "adapter"


class Execution(StrEnum):
    """How a verifier runs.

    PROCESS: in a killable worker process with a hard deadline for each item (the default).
    JAILED: as PROCESS, with the worker process inside the sandbox's jail; for verifiers whose code is not trusted, or
        that execute the policy's text.
    ASYNC: in the run's event loop, cancelled at its deadline; for judges behind a network.
    SANDBOXED: in the parent, because untrusted code and waiting are delegated to a sandbox.
    """

    PROCESS = "process"
    JAILED = "jailed"
    ASYNC = "async"
    SANDBOXED = "sandboxed"

    @property
    def is_pooled(self) -> bool:
        """Whether items are verified by the pool of worker processes."""
        return self in (Execution.PROCESS, Execution.JAILED)


def _require(ok: bool, message: str) -> None:
    if not ok:
        raise ValueError(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One chat message."""

    role: str
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One verification of a prompt's completions.

    name: unique in the prompt; the key in metrics and `reward_parts`.
    verifier: a registered name, `package.module:attribute` or `path/file.py:attribute`.
    settings: the verifier's own settings, validated by its `Config`.
    reference: the gold answer; never shown to the policy, never printed by repr.
    weight: of its score in the reward, if role is REWARD.
    execution: PROCESS or JAILED; None: as the verifier's class says. python: the path of the interpreter of a jailed
        verifier; "" is the running one. readable: files and folders that a jailed verifier may read besides.
    """

    name: str
    verifier: str
    settings: Mapping[str, Json] = field(default_factory=dict[str, Json])
    reference: Json = field(default=None, repr=False)
    role: Role = Role.REWARD
    weight: float = 1.0
    execution: "Execution | None" = None
    python: str = ""
    readable: tuple[str, ...] = ()

    @property
    def is_jailed(self) -> bool:
        """Whether the check has its verifier jailed, whatever its class says."""
        return self.execution is Execution.JAILED or bool(self.python)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One question: chat `messages` or plain `text` (exactly one), and the checks of its completions.

    assistant_prefix: text after the generation prompt, with which the policy's answer begins.
    chat_template_kwargs: further arguments of the chat template.
    tags: other columns of the row: plain values, or any JSON if the recipe's `columns` names the column.
    """

    prompt_id: str
    checks: tuple[Check, ...]
    source: str
    messages: tuple[Message, ...] = ()
    text: str = ""
    assistant_prefix: str = ""
    chat_template_kwargs: Mapping[str, Json] = field(default_factory=dict[str, Json])
    tags: Mapping[str, Json] = field(default_factory=dict[str, Json])

    def __post_init__(self) -> None:
        _require(bool(self.prompt_id), "prompt_id is empty; every prompt needs an id")
        _require(
            bool(self.messages) != bool(self.text), f"prompt {self.prompt_id!r} needs exactly one of messages and text"
        )
        names = [check.name for check in self.checks]
        _require(bool(names), f"prompt {self.prompt_id!r} has no check; a prompt without a verifier cannot be rewarded")
        _require(len(set(names)) == len(names), f"prompt {self.prompt_id!r} has two checks with the same name: {names}")

    @property
    def reference(self) -> Json:
        """The reference of the only check. A verifier always receives a prompt narrowed to its own check."""
        _require(
            len(self.checks) == 1,
            f"prompt {self.prompt_id!r} has {len(self.checks)} checks; narrow it with for_check(name) first",
        )
        return self.checks[0].reference

    def for_check(self, name: str) -> "Prompt":
        """The prompt with only the named check, which a verifier receives."""
        kept = tuple(check for check in self.checks if check.name == name)
        _require(bool(kept), f"prompt {self.prompt_id!r} has no check named {name!r}")
        return replace(self, checks=kept)


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """One answer of the policy, token by token.

    logprobs: nats, under the distribution that was sampled from (temperature included); for greedy decoding the
        log-probability at temperature 1.
    sampled_mask: False where a token came from a tool or an environment and not from the policy.
    policy_versions: the version of the weights that sampled each token.
    """

    completion_id: str
    prompt_id: str
    sample_index: int
    prompt_token_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    sampled_mask: tuple[bool, ...]
    text: str
    finish_reason: FinishReason
    policy_versions: tuple[int, ...]

    def __post_init__(self) -> None:
        lengths = {len(self.token_ids), len(self.logprobs), len(self.sampled_mask), len(self.policy_versions)}
        _require(
            len(lengths) == 1,
            f"completion {self.completion_id!r}: token_ids, logprobs, sampled_mask and policy_versions differ in "
            f"length: {len(self.token_ids)}, {len(self.logprobs)}, {len(self.sampled_mask)}, "
            f"{len(self.policy_versions)}",
        )
        _require(self.sample_index >= 0, f"completion {self.completion_id!r}: sample_index={self.sample_index} < 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A verifier's result for one completion, with a readable reason.

    score: in [0, 1]; None exactly when status is ERROR or SKIPPED.
    verifier: `name@version`. details: JSON values (`details["cause"]` is "timeout" or "crash" if the checker died).
    """

    status: Status
    score: float | None
    reason: str
    verifier: str
    seconds: float
    extracted: str | None = None
    details: Mapping[str, Json] = field(default_factory=dict[str, Json])

    def __post_init__(self) -> None:
        if not self.status.has_score:
            name = self.status.name
            _require(
                self.score is None, f"a verdict with {name} has no score, got {self.score!r}: {name} is not a zero"
            )
        else:
            _require(
                self.score is not None and math.isfinite(self.score) and 0.0 <= self.score <= 1.0,
                f"the score of a {self.status} verdict must be in [0, 1], got {self.score!r}",
            )
            # An int, or a scalar of numpy or torch, which is not JSON.
            if type(self.score) is not float:
                object.__setattr__(self, "score", float(self.score or 0.0))

    @property
    def passed(self) -> bool:
        """Whether the completion was judged right."""
        return self.status is Status.PASS


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """A completion with its verdicts (by check name) and reward; `reward` is None when it could not be judged."""

    completion: Completion
    verdicts: Mapping[str, Verdict]
    reward: float | None
    reward_parts: Mapping[str, float] = field(default_factory=dict[str, float])

    def __post_init__(self) -> None:
        if self.reward is None:
            _require(not self.reward_parts, "an unjudged rollout has no reward_parts")
        else:
            _require(math.isfinite(self.reward), f"reward={self.reward!r} is not finite")
            total = math.fsum(self.reward_parts.values())
            _require(
                math.isclose(total, self.reward, rel_tol=1e-9, abs_tol=1e-12),
                f"reward_parts sum to {total!r}, but reward={self.reward!r}",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The rollouts of one prompt that are compared with one another.

    issue_index: the number under which the training stream handed the prompt out; -1 in an evaluation.
    """

    group_id: str
    prompt: Prompt
    rollouts: tuple[Rollout, ...]
    issue_index: int = -1

    def __post_init__(self) -> None:
        _require(len(self.rollouts) >= 1, f"group {self.group_id!r} is empty")
        strangers = {r.completion.prompt_id for r in self.rollouts} - {self.prompt.prompt_id}
        _require(not strangers, f"group {self.group_id!r} holds completions of other prompts: {sorted(strangers)}")

    @property
    def rewards(self) -> tuple[float | None, ...]:
        """Rewards in sample order; None where a rollout could not be judged."""
        return tuple(rollout.reward for rollout in self.rollouts)

    @property
    def num_judged(self) -> int:
        """How many rollouts have a reward."""
        return sum(reward is not None for reward in self.rewards)


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorEntry:
    """One line of a weights manifest.

    checksum: 64 bits over the bytes that the engine must hold; None until the tensor was sent (`Transport.is_sent`).
    """

    name: str
    shape: tuple[int, ...]
    checksum: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsRef:
    """Where an engine finds one version of the policy's weights.

    policy_version: negative for weights that are published only for a test; no completion may come from those.
    uri: with Transport.FILE the path of the file on the learner's node.
    manifest: empty for Transport.SHARED, where no bytes travel. base: the whole weights that an ADAPTER is for.
    """

    policy_version: int
    kind: WeightsKind
    transport: Transport
    uri: str
    dtype: str
    manifest: tuple[TensorEntry, ...] = ()
    base: "WeightsRef | None" = None

    @property
    def num_bytes(self) -> int:
        """The bytes of the tensors of the manifest."""
        return _BYTES[self.dtype] * sum(math.prod(entry.shape) for entry in self.manifest)
