"""Settings and references of `text_match`; its verdicts stand in
tests/golden/verdicts/text_match.jsonl.
"""

import pytest
from pydantic import ValidationError

from rlvr.commands.verify_file import completion_from_text
from rlvr.plugin import VerifierContext
from rlvr.records import Status
from rlvr_verifiers.text_match import TextMatchConfig, TextMatchVerifier


def build(**settings: object) -> TextMatchVerifier:
    return TextMatchVerifier(TextMatchConfig(**settings), VerifierContext())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "regex", "pattern": "(unclosed"}, "does not compile"),
        ({"mode": "regex", "pattern": "no group"}, "0 groups"),
        ({"mode": "regex", "pattern": "(a)(b)"}, "2 groups"),
        ({"mode": "regex"}, "goes with mode"),
        ({"pattern": "(a)"}, "goes with mode"),
        ({"mode": "choice", "choices": "A-D"}, "choices"),
        ({"mod": "exact"}, "mod"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TextMatchConfig(**settings)


@pytest.mark.parametrize("reference", [None, True, 1.5, [], ["a", None], {"a": 1}])
def test_references_of_other_types_are_refused(reference: object) -> None:
    with pytest.raises(ValueError, match="is not a text"):
        build().parse_reference(reference)


def test_a_reference_must_be_one_of_the_choices() -> None:
    build(mode="choice").parse_reference("B")
    with pytest.raises(ValueError, match="not one of the choices"):
        build(mode="choice").parse_reference("E")


def test_only_exact_mode_is_settled_in_the_parent() -> None:
    completion = completion_from_text("4", prompt_id="p")
    settled = build().prejudge("4", completion)
    assert settled is not None
    assert settled.status is Status.PASS
    assert build(mode="choice").prejudge("4", completion) is None
    assert build(mode="regex", pattern="(.)").prejudge("4", completion) is None
