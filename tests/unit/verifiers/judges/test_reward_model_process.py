"""The process of `reward_model`: batches, crashes, hangs and restarts, with a child that needs no torch."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rlvr.errors import ConfigError, VerifierError
from rlvr_verifiers.reward_model.process import ScorerProcess, SharedProcesses

STUB = "tests.unit.verifiers.judges.stub_scorer_main"


@contextmanager
def opened(path: str = "good", **given: Any) -> Iterator[ScorerProcess]:
    settings = {"path": path, "batch_size": given.pop("batch_size", 1), "threads": 1}
    limits = {"load_deadline_s": 60.0, "score_deadline_s": 20.0, **given}
    process = ScorerProcess(settings, module=STUB, **limits)
    try:
        yield process
    finally:
        process.close()


def scores(process: ScorerProcess, *texts: str) -> list[Any]:
    """(output, pairs that were sent together) of each text, or the error."""

    async def together() -> list[Any]:
        asked = [process.score([{"role": "user", "content": "?"}], text) for text in texts]
        return await asyncio.gather(*asked, return_exceptions=True)

    return [
        found if isinstance(found, BaseException) else (found.logits[0], found.num_tokens)
        for found in asyncio.run(together())
    ]


def test_each_pair_gets_its_own_output_and_those_that_wait_are_sent_together() -> None:
    with opened(batch_size=2) as process:
        found = scores(process, *("x" * length for length in range(1, 12)))
    assert [output for output, _ in found] == list(range(1, 12))
    assert max(together for _, together in found) == 4  # two batches


def test_a_model_that_cannot_be_loaded_says_why_every_time() -> None:
    with opened("bad") as process:
        for _ in range(2):
            (found,) = scores(process, "x")
            assert isinstance(found, ConfigError)
            assert "reward model 'bad': no such model" in str(found)


def test_a_failed_computation_is_an_error_and_the_process_goes_on() -> None:
    with opened() as process:
        (failed,) = scores(process, "raise")
        assert isinstance(failed, VerifierError)
        assert "out of memory" in str(failed)
        assert scores(process, "four") == [(4.0, 1)]


def test_a_lost_process_is_started_again_at_most_twice() -> None:
    with opened(score_deadline_s=0.3) as process:
        (hung,) = scores(process, "hang")
        assert "it gave no answer within 0.3 s" in str(hung)
        for _ in range(2):
            (lost,) = scores(process, "die")
            assert isinstance(lost, VerifierError)
        (refused,) = scores(process, "four")
        assert "was lost 3 times and is not started again" in str(refused)


def test_an_unused_process_ends_and_is_started_again_when_it_is_needed() -> None:
    with opened(idle_s=0.05) as process:
        assert scores(process, "four") == [(4.0, 1)]
        first = process._thread
        assert first is not None
        first.join(10.0)
        assert not first.is_alive()
        assert scores(process, "three") == [(5.0, 1)]
        assert process._num_losses == 0


def test_closing_fails_what_is_open_and_what_comes_later() -> None:
    with opened() as process:

        async def close_meanwhile() -> list[Any]:
            asked = [asyncio.create_task(process.score([], text)) for text in ("hang", "x")]
            await process.ready()
            await asyncio.sleep(0.05)
            await asyncio.to_thread(process.close)
            return await asyncio.gather(*asked, return_exceptions=True)

        found = asyncio.run(close_meanwhile())
        assert all(isinstance(error, VerifierError) for error in found)
        (later,) = scores(process, "x")
        assert "was closed" in str(later)


def test_users_of_one_model_share_a_process_until_the_last_has_ended() -> None:
    shared = SharedProcesses()
    limits = {"load_deadline_s": 1.0, "score_deadline_s": 1.0}
    first = shared.take({"path": "a"}, **limits)
    assert shared.take({"path": "a"}, **limits) is first
    other = shared.take({"path": "b"}, **limits)
    assert other is not first
    shared.give_back(first)
    assert shared.take({"path": "a"}, **limits) is first
    shared.give_back(first)
    shared.give_back(first)
    assert shared.take({"path": "a"}, **limits) is not first
