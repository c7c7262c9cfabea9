"""Requests in vLLM's terms and its outputs as completions; what a worker's answers say of a file."""

import dataclasses
from types import SimpleNamespace

import pytest

from rlvr.errors import RolloutError
from rlvr.protocols import GenerationRequest, Sampling
from rlvr.records import FinishReason, TensorEntry, Transport, WeightsKind, WeightsRef
from rlvr.rollout.vllm.engine import _wrong_bytes
from rlvr.rollout.vllm.inspection import require_loadable
from rlvr.rollout.vllm.mapping import chosen_logprobs, completion_of, prompt_logprobs, sampling_arguments, versions_of

REQUEST = GenerationRequest(
    request_id="p/3",
    prompt_id="p",
    prefix_token_ids=(1, 2),
    sample_index=3,
    seed=2**63 + 5,
    sampling=Sampling(temperature=0.5, max_tokens=9, stop_token_ids=(7, 2), stop_strings=("END",)),
)


def flat(*logprobs: float) -> SimpleNamespace:
    count = len(logprobs)
    return SimpleNamespace(
        start_indices=list(range(count)), end_indices=list(range(1, count + 1)), logprobs=list(logprobs)
    )


def span(version: str, start: int, end: int) -> SimpleNamespace:
    return SimpleNamespace(version=version, start=start, end=end)


def output(**changes: object) -> SimpleNamespace:
    fields = {
        "token_ids": [5, 6, 7],
        "logprobs": flat(-0.1, -0.2, -0.3),
        "finish_reason": "stop",
        "weight_versions": [span("4", 0, 2), span("5", 2, 3)],
    }
    return SimpleNamespace(**fields | changes)


def test_only_the_policys_stops_and_the_requests_end_a_completion():
    found = sampling_arguments(REQUEST, stop_token_ids=(2, 0))
    assert found["stop_token_ids"] == [2, 0, 7]
    assert found["ignore_eos"] is True
    assert found["stop"] == ["END"]
    assert found["include_stop_str_in_output"] is True


def test_tokens_become_text_in_vllm_only_where_a_stop_string_needs_it():
    plain = dataclasses.replace(REQUEST, sampling=Sampling(temperature=1.0, max_tokens=1))
    assert sampling_arguments(plain, stop_token_ids=())["detokenize"] is False
    assert sampling_arguments(REQUEST, stop_token_ids=())["detokenize"] is True


def test_sampling_is_the_recipes_and_the_seed_fits():
    found = sampling_arguments(REQUEST, stop_token_ids=())
    assert (found["temperature"], found["top_p"], found["top_k"], found["min_p"]) == (0.5, 1.0, 0, 0.0)
    assert (found["seed"], found["max_tokens"], found["n"]) == (5, 9, 1)


def test_a_temperature_that_vllm_would_change_is_refused():
    cold = dataclasses.replace(REQUEST, sampling=Sampling(temperature=0.004, max_tokens=1))
    with pytest.raises(RolloutError, match=r"'p/3': temperature=0\.004 is below 0\.01"):
        sampling_arguments(cold, stop_token_ids=())


def test_an_output_becomes_a_completion():
    found = completion_of(REQUEST, output(), to_text=lambda ids: "-".join(map(str, ids)))
    assert (found.completion_id, found.prompt_id, found.sample_index) == ("p/3", "p", 3)
    assert found.prompt_token_ids == (1, 2)
    assert found.token_ids == (5, 6, 7)
    assert found.logprobs == (-0.1, -0.2, -0.3)
    assert found.policy_versions == (4, 4, 5)
    assert found.text == "5-6-7"
    assert found.finish_reason is FinishReason.STOP


def test_tokens_dropped_after_a_stop_string_leave_log_probs_and_versions():
    found = completion_of(REQUEST, output(token_ids=[5, 6]), to_text=str)
    assert (found.logprobs, found.policy_versions) == ((-0.1, -0.2), (4, 4))


def test_a_request_aborted_before_its_first_token_has_none():
    found = completion_of(
        REQUEST, output(token_ids=[], logprobs=None, finish_reason="abort", weight_versions=[]), to_text=lambda ids: ""
    )
    assert (found.token_ids, found.finish_reason) == ((), FinishReason.ABORT)


@pytest.mark.parametrize("reason", ["error", None, "repetition"])
def test_an_end_that_is_not_known_is_an_error(reason: str | None):
    with pytest.raises(RolloutError, match="vLLM ended it with finish_reason="):
        completion_of(REQUEST, output(finish_reason=reason), to_text=str)


@pytest.mark.parametrize(
    "spans", [None, [], [span("4", 0, 2)], [span("default", 0, 3)], [span("4", 0, 1), span("5", 2, 3)]]
)
def test_a_token_without_a_version_is_an_error(spans: list[SimpleNamespace] | None):
    with pytest.raises(RolloutError, match="of 3 tokens"):
        versions_of(spans, count=3)


def test_missing_log_probs_are_an_error():
    with pytest.raises(RolloutError, match="2 log-probs for 3 tokens"):
        chosen_logprobs(flat(-1.0, -2.0), count=3)  # type: ignore[arg-type]


def test_a_prompts_first_token_has_no_log_prob():
    found = SimpleNamespace(start_indices=[0, 0, 1], end_indices=[0, 1, 2], logprobs=[-1.0, -2.0])
    assert prompt_logprobs(found, count=2) == [-1.0, -2.0]
    with pytest.raises(RolloutError, match="2 prompt log-probs; expected 3"):
        prompt_logprobs(found, count=3)


def ref(**changes: object) -> WeightsRef:
    entries = tuple(TensorEntry(name=n, shape=(2,), checksum=c) for n, c in (("a", 1), ("b", 2)))
    base = WeightsRef(
        policy_version=3, kind=WeightsKind.FULL, transport=Transport.FILE, uri="w", dtype="float32", manifest=entries
    )
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


def test_a_tensor_that_differs_is_lost_or_is_added_on_the_way_is_named():
    assert _wrong_bytes(ref(), {"a": 1, "b": 2}) == []
    assert _wrong_bytes(ref(), {"a": 1, "b": 9}) == ["'b' arrived with bytes that differ from the learner's"]
    assert _wrong_bytes(ref(), {"a": 1}) == ["'b' was sent but did not arrive"]
    assert _wrong_bytes(ref(), {"a": 1, "b": 2, "c": 3}) == ["'c' arrived but is not in the learner's manifest"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"transport": Transport.SHARED}, "loads whole weights from a file"),
        ({"kind": WeightsKind.ADAPTER}, "or adapters with their base"),
        ({"base": ref()}, "or adapters with their base"),
        ({"kind": WeightsKind.ADAPTER, "base": ref()}, "was started without adapters"),
        ({"manifest": ()}, "cannot be verified"),
    ],
)
def test_weights_that_could_not_be_proven_are_refused(changes: dict[str, object], expected: str):
    with pytest.raises(RolloutError, match=expected):
        require_loadable(ref(**changes), has_adapters=False)


def test_an_engine_with_adapters_takes_them_with_a_base_that_can_be_checked():
    adapters = ref(kind=WeightsKind.ADAPTER, base=ref())
    require_loadable(adapters, has_adapters=True)
    with pytest.raises(RolloutError, match="was started with adapters"):
        require_loadable(ref(), has_adapters=True)
    unproven = dataclasses.replace(adapters, base=ref(manifest=()))
    with pytest.raises(RolloutError, match="cannot be verified"):
        require_loadable(unproven, has_adapters=True)
