"""The order of prompts: fair, without repeats, and the same after a restart at any point."""

import json
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.data.order import MAX_PASSED, Choice, Choose, PoolExhausted, PromptStream
from rlvr.errors import CheckpointError, DataError
from rlvr.records import Check, Prompt

CHECKS = (Check(name="main", verifier="text_match", reference="x"),)


@dataclass
class Numbers:
    """Prompts 0, 1, 2, ...; None rows means endless."""

    name: str
    num_rows: int | None

    def prompt(self, index: int) -> Prompt:
        return Prompt(prompt_id=f"{self.name}/{index}", text="q", checks=CHECKS, source=self.name)


def stream(
    *sizes: int | None, weights: list[float] | None = None, seed: int = 0, shuffle: bool = True, long: str = ""
) -> PromptStream:
    return PromptStream(
        [Numbers(f"s{i}", size) for i, size in enumerate(sizes)],
        weights=weights or [1.0] * len(sizes),
        seed=seed,
        shuffle=shuffle,
        is_too_long=lambda prompt: prompt.prompt_id in long.split(),
    )


def ids(taken: PromptStream, count: int) -> list[str]:
    return [taken.take().prompt.prompt_id for _ in range(count)]


def choosing(taken: PromptStream, choose: Choose) -> PromptStream:
    taken.choose_by(choose)
    return taken


sources = st.lists(st.tuples(st.one_of(st.none(), st.integers(1, 7)), st.floats(0.1, 9.0)), min_size=1, max_size=4)


def now_and_then(prompt: Prompt, draw: int) -> Choice:
    return Choice.PASS if (len(prompt.prompt_id) + draw) % 3 == 0 else Choice.TAKE


@given(sources, st.integers(0, 5), st.integers(0, 40), st.booleans(), st.sets(st.integers(0, 39)))
def test_a_restored_stream_hands_out_what_was_open_and_goes_on_as_the_first_would_have(
    made: list[tuple[int | None, float]], seed: int, stop: int, shuffle: bool, left_open: set[int]
) -> None:
    def fresh() -> PromptStream:
        sizes, weights = [s for s, _ in made], [w for _, w in made]
        made_stream = stream(*sizes, weights=weights, seed=seed, shuffle=shuffle, long="s0/1 s1/0")
        return choosing(made_stream, now_and_then)

    first = fresh()
    try:
        whole = [first.take() for _ in range(stop + 20)]
    except DataError:
        return
    second = fresh()
    open_ones = [issue for issue in (second.take() for _ in range(stop)) if issue.index in left_open]
    for index in set(range(stop)) - left_open:
        second.settle(index)
    third = fresh()
    third.restore(json.loads(json.dumps(second.state())))
    assert third.num_issued == stop
    assert [third.take() for _ in open_ones] == open_ones
    assert [third.take() for _ in range(20)] == whole[stop:]
    assert third.num_too_long == first.num_too_long
    assert third.num_passed == first.num_passed


def test_a_prompt_that_was_handed_out_again_and_settled_does_not_come_a_third_time() -> None:
    first = stream(5)
    taken = [first.take() for _ in range(3)]
    first.settle(1)
    second = stream(5)
    second.restore(first.state())
    assert [second.take() for _ in range(2)] == [taken[0], taken[2]]
    second.settle(0)
    third = stream(5)
    third.restore(second.state())
    assert third.take() == taken[2]
    assert third.take().index == 3


def test_an_issue_has_the_epoch_of_its_source() -> None:
    taken = stream(2)
    assert [taken.take().epoch for _ in range(5)] == [0, 0, 1, 1, 2]
    assert stream(None).take().epoch == 0


@given(st.integers(1, 20), st.integers(0, 9), st.booleans())
def test_no_row_repeats_within_an_epoch(size: int, seed: int, shuffle: bool) -> None:
    taken = stream(size, seed=seed, shuffle=shuffle)
    for _ in range(3):
        assert sorted(ids(taken, size)) == sorted(f"s0/{i}" for i in range(size))


def test_epochs_and_seeds_have_their_own_order() -> None:
    taken = stream(30)
    first, second = ids(taken, 30), ids(taken, 30)
    assert first != second
    assert ids(stream(30), 30) == first != ids(stream(30, seed=1), 30)


def test_without_shuffling_rows_keep_their_order() -> None:
    assert ids(stream(3, shuffle=False), 4) == ["s0/0", "s0/1", "s0/2", "s0/0"]


def test_an_endless_source_is_drawn_one_by_one() -> None:
    assert ids(stream(None), 3) == ["s0/0", "s0/1", "s0/2"]


@given(st.lists(st.floats(0.1, 9.0), min_size=1, max_size=5), st.integers(1, 80))
def test_every_source_gets_its_share(weights: list[float], count: int) -> None:
    taken = stream(*[5] * len(weights), weights=weights)
    found = [name.partition("/")[0] for name in ids(taken, count)]
    for i, weight in enumerate(weights):
        share = count * weight / sum(weights)
        assert abs(found.count(f"s{i}") - share) < len(weights)


def test_issue_indices_count_from_zero_without_holes() -> None:
    taken = stream(3, None, long="s0/1")
    assert [taken.take().index for _ in range(9)] == list(range(9))


def test_long_prompts_are_skipped_and_counted_each_epoch() -> None:
    taken = stream(4, long="s0/2", shuffle=False)
    assert ids(taken, 6) == ["s0/0", "s0/1", "s0/3"] * 2
    assert taken.num_too_long == {"s0": 2}


def test_a_source_that_is_all_too_long_leaves_the_mix() -> None:
    taken = stream(2, 3, long="s0/0 s0/1")
    assert all(name.startswith("s1/") for name in ids(taken, 10))


def test_one_short_prompt_is_found_wherever_the_epoch_begins() -> None:
    for seed in range(20):
        assert ids(stream(3, seed=seed, long="s0/0 s0/2"), 4) == ["s0/1"] * 4


@pytest.mark.parametrize("size", [2, None])
def test_nothing_short_enough_is_a_data_error_with_advice(size: int | None) -> None:
    taken = PromptStream([Numbers("s0", size)], weights=[1.0], seed=0, is_too_long=lambda prompt: True)
    with pytest.raises(DataError, match=r"raise data\.max_prompt_tokens"):
        taken.take()


def test_what_is_too_long_is_counted_once_a_row_with_the_advice_that_fits() -> None:
    taken = PromptStream(
        [Numbers("s0", 12)], weights=[1.0], seed=0, is_too_long=lambda prompt: True, long_advice="do so"
    )
    with pytest.raises(DataError, match=r"\(skipped: s0: 12\); do so$"):
        taken.take()


@pytest.mark.parametrize("other", [stream(4), stream(3, seed=1), stream(3, 3), stream(None)])
def test_a_state_of_other_data_is_refused(other: PromptStream) -> None:
    with pytest.raises(CheckpointError, match="belongs to other data"):
        stream(3).restore(other.state())


def retiring(*names: str) -> Choose:
    return lambda prompt, draw: Choice.RETIRE if prompt.prompt_id in names else Choice.TAKE


def test_retired_prompts_are_passed_over_and_counted() -> None:
    taken = choosing(stream(3, shuffle=False), retiring("s0/1"))
    assert ids(taken, 4) == ["s0/0", "s0/2"] * 2
    assert taken.num_passed == 2
    assert not taken.is_exhausted()


def test_a_source_whose_prompts_are_all_retired_leaves_the_mix_with_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    taken = choosing(stream(2, 3), retiring("s0/0", "s0/1"))
    assert all(name.startswith("s1/") for name in ids(taken, 10))
    assert [r.getMessage() for r in caplog.records] == [
        "source 's0': every prompt of it was retired or is too long; it leaves the mix"
    ]


def test_when_all_are_retired_the_pool_is_exhausted() -> None:
    gone: list[str] = []
    taken = choosing(stream(3, long="s0/1"), lambda prompt, draw: retiring(*gone)(prompt, draw))
    assert not taken.is_exhausted()
    gone += ["s0/0", "s0/2"]
    assert not taken.is_exhausted()  # the prompt that was found before is still to be taken
    assert taken.take().index == 0
    assert taken.is_exhausted()
    with pytest.raises(PoolExhausted):
        taken.take()


def test_peeking_does_not_change_the_order() -> None:
    plain, looked_at = (choosing(stream(4, None), now_and_then) for _ in range(2))
    for _ in range(12):
        assert not looked_at.is_exhausted()
        assert not looked_at.is_exhausted()
        again = choosing(stream(4, None), now_and_then)
        again.restore(json.loads(json.dumps(looked_at.state())))
        expected = plain.take()
        assert looked_at.take() == again.take() == expected
        plain.settle(expected.index)
        looked_at.settle(expected.index)


def test_prompts_of_endless_sources_are_never_refused() -> None:
    taken = choosing(stream(None), lambda prompt, draw: Choice.RETIRE)
    assert ids(taken, 3) == ["s0/0", "s0/1", "s0/2"]


def test_a_prompt_is_drawn_in_the_end_even_if_every_draw_is_skipped() -> None:
    taken = choosing(stream(7), lambda prompt, draw: Choice.PASS)
    ids(taken, 2)
    assert taken.num_passed == 2 * MAX_PASSED
