"""The clauses about completions: what comes back, where it ends, seeds, and requests that are given up."""

import asyncio
import math
import time
from typing import Any

from rlvr.contracts.engine_trial import PROMPTS, Checks, EngineTrial, Problems
from rlvr.models.prompting import decode, stop_text
from rlvr.protocols import GenerationRequest
from rlvr.records import Completion, FinishReason

_ABOVE_ZERO = 1e-6  # nats; rounding of a log-prob of a token that is certain
_ANSWER_S = 5.0  # of `health` while the engine generates


async def every_request_is_answered(trial: EngineTrial) -> Problems:
    """One completion for each request, of the length, tokens and log-probs that the protocol states."""
    requests = [*trial.group(max_tokens=7), trial.request(seed=5, max_tokens=1)]
    found: list[Completion] = [c async for c in trial.engine.generate(requests)]
    given = sorted(completion.completion_id for completion in found)
    asked = sorted(request.request_id for request in requests)
    if given != asked:
        return [f"{len(requests)} requests gave {len(found)} completions, or others than asked for"]
    problems = [
        f"no request gave {len(left)} completions" for left in [[c async for c in trial.engine.generate([])]] if left
    ]
    by_id = {completion.completion_id: completion for completion in found}
    for request in requests:
        problems += _completion_problems(trial, request, by_id[request.request_id])
    return problems


def _completion_problems(trial: EngineTrial, request: GenerationRequest, completion: Completion) -> Problems:
    problems: Problems = []
    same = {
        "prompt_id": (completion.prompt_id, request.prompt_id),
        "sample_index": (completion.sample_index, request.sample_index),
        "prompt_token_ids": (completion.prompt_token_ids, request.prefix_token_ids),
    }
    problems += [f"{k} is {got!r} and not {want!r}" for k, (got, want) in same.items() if got != want]
    tokens, limit = completion.token_ids, request.sampling.max_tokens
    if not 1 <= len(tokens) <= limit:
        problems.append(f"max_tokens={limit} gave {len(tokens)} tokens")
    if any(not 0 <= token < trial.vocab_size for token in tokens):
        problems.append(f"a token is outside the vocabulary of {trial.vocab_size}: {tokens}")
        return problems
    if any(not math.isfinite(value) or value > _ABOVE_ZERO for value in completion.logprobs):
        problems.append(f"a log-prob is not finite, or above 0: {completion.logprobs}")
    if not all(completion.sampled_mask):
        problems.append("sampled_mask is not True at each token")
    if set(completion.policy_versions) - {trial.version}:
        problems.append(
            f"policy_versions are {sorted(set(completion.policy_versions))}, and version {trial.version} is loaded"
        )
    text = decode(tokens, trial.policy.tokenizer)
    if completion.text != text:
        problems.append(f"text is {completion.text!r}, and its tokens are {text!r}")
    return problems + _end_problems(trial, request, completion)


def _end_problems(trial: EngineTrial, request: GenerationRequest, completion: Completion) -> Problems:
    """What is wrong with the place and the reason of the end."""
    sampling, tokens = request.sampling, completion.token_ids
    stops = {*trial.policy.stop_token_ids, *sampling.stop_token_ids}

    def stopped(ids: tuple[int, ...]) -> bool:
        text = stop_text(ids, trial.policy.tokenizer)
        return bool(stops & set(ids)) or any(string in text for string in sampling.stop_strings)

    if stopped(tokens[:-1]):
        return [f"it goes on after a stop: tokens {tokens}, stop tokens {sorted(stops)}, {sampling}"]
    reason = completion.finish_reason
    if reason is FinishReason.ABORT:
        return ["finish_reason is abort, long before the deadline"]
    right = FinishReason.STOP if stopped(tokens) else FinishReason.LENGTH
    problems = [f"finish_reason is {reason} and not {right}: tokens {tokens}, {sampling}"]
    if reason is not right:
        return problems
    if right is FinishReason.LENGTH and len(tokens) < sampling.max_tokens:
        return [f"it ends after {len(tokens)} of {sampling.max_tokens} tokens without a stop"]
    return []


async def stops_are_honoured(trial: EngineTrial) -> Problems:
    """Stop tokens and stop strings of a request end it, and stay in it."""
    problems: Problems = []
    both: tuple[dict[str, Any], ...] = ({"stop_token_ids": (4, 5, 6, 7, 8, 9)}, {"stop_strings": tuple("01234")})
    for sampling in both:
        requests = trial.group(**sampling)
        for request, completion in zip(requests, await trial.generate(requests), strict=True):
            problems += _end_problems(trial, request, completion)
    return problems[:1]


async def seeds_decide(trial: EngineTrial) -> Problems:
    """Different seeds give different completions; equal ones equal completions, where the engine says so."""
    seeds = range(12)
    many = await trial.generate([trial.request(seed=seed) for seed in seeds])
    problems: Problems = []
    if len({completion.token_ids for completion in many}) < len(seeds) // 2:
        problems.append(f"{len(seeds)} seeds gave {len({c.token_ids for c in many})} completions")
    if not trial.traits.is_deterministic:
        return problems
    again = await trial.generate([trial.request(seed=seed) for seed in reversed(seeds)])
    alone = await trial.generate([trial.request(seed=3)])
    if [c.token_ids for c in many] != [c.token_ids for c in reversed(again)]:
        problems.append("equal seeds gave other completions in another order")
    elif alone[0].token_ids != many[3].token_ids:
        problems.append("equal seeds gave another completion in another batch")
    if problems and "equal" in problems[-1]:
        problems[-1] += "; draw from the request's seed alone, or declare is_deterministic = False"
    return problems


async def health_answers(trial: EngineTrial) -> Problems:
    """`health` answers while the engine generates, with the version that is loaded and what is open."""
    generating = asyncio.ensure_future(trial.generate(trial.group()))
    await asyncio.sleep(0)
    try:
        health = await asyncio.wait_for(trial.engine.health(), _ANSWER_S)
    except TimeoutError:
        generating.cancel()
        return [f"no answer within {_ANSWER_S:g} s while it generates"]
    await generating
    idle = await trial.engine.health()
    problems: Problems = []
    for state in (health, idle):
        if not state.is_healthy:
            problems.append(f"is_healthy is False: {state.detail!r}")
        if state.policy_version != trial.version:
            problems.append(f"policy_version is {state.policy_version} and not {trial.version}")
    if idle.num_open_requests:
        problems.append(f"num_open_requests is {idle.num_open_requests} with nothing open")
    return problems


async def cancelling_one_caller_spares_the_others(trial: EngineTrial) -> Problems:
    """A caller that is cancelled or stops early costs no other caller a completion, and its requests are closed."""
    stays, leaves = trial.group(), [trial.request(prompt, seed=9) for prompt in PROMPTS]
    kept = asyncio.ensure_future(trial.generate(stays))
    dropped = asyncio.ensure_future(trial.generate(leaves))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    dropped.cancel()
    problems: Problems = []
    count = len(await kept)
    if count != len(stays):
        problems.append(f"the other caller got {count} of {len(stays)} completions")
    await asyncio.gather(dropped, return_exceptions=True)
    async for _ in trial.engine.generate(trial.group()):
        break  # a caller that stops after its first completion
    again = await trial.generate(trial.group(count=1))
    if len(again) != len(PROMPTS):
        problems.append(f"afterwards {len(again)} of {len(PROMPTS)} requests are answered")
    end = time.monotonic() + _ANSWER_S
    while num_open := (await trial.engine.health()).num_open_requests:
        if time.monotonic() > end:
            problems.append(f"num_open_requests is still {num_open} after {_ANSWER_S:g} s with no caller left")
            break
        await asyncio.sleep(0.02)
    return problems


GENERATION_CHECKS: Checks = {
    "generate": every_request_is_answered,
    "stops": stops_are_honoured,
    "seeds": seeds_decide,
    "health": health_answers,
    "cancellation": cancelling_one_caller_spares_the_others,
}
