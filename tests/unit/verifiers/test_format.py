"""Settings, scores and measures of `format`; its verdicts are in tests/golden/verdicts/format.jsonl."""

import unicodedata
from typing import Any

import pytest
from pydantic import ValidationError

from rlvr.plugin import VerifierContext, completion_from_text
from rlvr.records import Check, Prompt, Status, Verdict
from rlvr_verifiers.text_format.language import SCRIPTS, script_share
from rlvr_verifiers.text_format.repetition import repeated_share, words_of
from rlvr_verifiers.text_format.verifier import FormatConfig, FormatVerifier
from tests.hardware import cpu_seconds

RIGHT = "<think>two and two</think><answer>four</answer>"


def verify(text: str, **settings: Any) -> Verdict:
    prompt = Prompt(prompt_id="p", text="?", checks=(Check(name="main", verifier="format"),), source="test")
    built = FormatVerifier(FormatConfig(**settings), VerifierContext())
    return built.verify(prompt, completion_from_text(text, prompt_id="p"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tags": []}, "nothing is checked"),
        ({"tags": ["<think>"]}, "without brackets"),
        ({"tags": ["a", "a"]}, "exactly once"),
        ({"tags": [""]}, "without brackets"),
        ({"script": "english"}, "is none of latin, greek"),
        ({"max_repeated_share": 1.5}, "max_repeated_share"),
        ({"score": "mean", "weights": {"length": 1}}, "the parts are tags, language, repetition"),
        ({"score": "mean", "weights": {"tags": -1}}, "from 0 up"),
        ({"score": "mean", "weights": {"tags": float("nan")}}, "from 0 up"),
        ({"score": "mean", "weights": {"tags": 0}}, "weights of all checked parts are 0"),
        ({"weights": {"tags": 1}}, "weights go with score: mean"),
        ({"tag": ["a"]}, "tag"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        FormatConfig(**settings)


def test_each_part_is_a_logged_score() -> None:
    verdict = verify("<think>two</think>", script="latin", max_repeated_share=0.3)
    assert (verdict.status, verdict.score) == (Status.FAIL, 0.0)
    details = dict(verdict.details)
    assert details == {
        "tags": 0.0, "language": 1.0, "script_share": 1.0, "repetition": 1.0, "repeated_share": 0.0
    }  # fmt: skip
    assert verdict.reason == "<answer> is missing"


def test_the_score_may_be_the_weighted_mean_of_the_parts() -> None:
    settings: dict[str, Any] = {"script": "latin", "max_repeated_share": 0.3, "score": "mean"}
    assert verify(RIGHT, **settings).score == 1.0
    assert verify("two", **settings).score == pytest.approx(2 / 3)
    assert verify("two", **settings, weights={"tags": 2}).score == pytest.approx(1 / 2)
    assert verify("два", **settings, weights={"tags": 2}).score == pytest.approx(1 / 4)
    assert verify("два", **settings, weights={"repetition": 0}).score == 0.0
    assert verify("", **settings).score == 0.0


def test_all_problems_are_in_the_reason() -> None:
    reason = verify("два " * 20, script="latin", max_repeated_share=0.3).reason
    assert reason == "<think> is missing; 0% of the letters are latin; 94% of the 4-grams repeat earlier ones"


@pytest.mark.parametrize(
    "script", ["latin", "greek", "cyrillic", "hebrew", "arabic", "devanagari", "thai", "hangul", "han"]
)
def test_the_letters_of_a_script_are_those_that_unicode_names(script: str) -> None:
    names = {"han": "CJK UNIFIED IDEOGRAPH", "hangul": "HANGUL SYLLABLE"}
    prefix = names.get(script, f"{script.upper()} ")
    letters = (chr(code) for code in range(0xD800) if not 0x1D00 <= code < 0x1DC0 and not 0xAB30 <= code < 0xAC00)
    named = [
        letter
        for letter in letters
        if unicodedata.category(letter) in ("Lu", "Ll", "Lo") and unicodedata.name(letter, "").startswith(prefix)
    ]
    wrong = [letter for letter in named if script_share(letter, script) != 1.0]
    assert len(named) > 20
    assert wrong == []


def test_no_letter_belongs_to_two_scripts() -> None:
    plain = [script for script in SCRIPTS if script not in ("japanese", "korean", "chinese")]
    for letter in "aßéŁαЖשعहதไ한カ漢":
        assert sum(script_share(letter, script) == 1.0 for script in plain) == 1, letter


@pytest.mark.parametrize(
    ("text", "size", "share"),
    [
        ("", 3, 0.0),
        ("a b", 3, 0.0),
        ("a b c", 3, 0.0),
        ("a a a a", 3, 0.5),
        ("a b a b a b", 2, 0.6),
        ("a " * 11, 2, 0.9),
    ],
)
def test_the_repeated_share_is_counted_by_hand(text: str, size: int, share: float) -> None:
    assert repeated_share(text, size) == pytest.approx(share)


def test_the_words_of_scripts_without_spaces_are_their_characters() -> None:
    assert words_of("Go, 二加2 = x_1") == ["go", ",", "二", "加", "2", "=", "x", "_", "1"]


@pytest.mark.parametrize(
    "piece", ["<think>", "</answer>", "a ", "$", "\\(", "\\[a", "```", "https://", "\ud800", "漢", "a", "<", "``` "]
)
def test_a_verdict_on_a_hostile_text_takes_little_time(piece: str) -> None:
    start = cpu_seconds()
    for length in (1_900_000, 10_000_000):
        assert not verify(piece * (length // len(piece)), script="latin", max_repeated_share=0.3, ngram=20).passed
    assert cpu_seconds() - start < 4.0
