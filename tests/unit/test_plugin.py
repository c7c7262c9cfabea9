"""The decorator for verifier functions: arguments, settings, returned values."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError

from rlvr.errors import PluginError
from rlvr.plugin import FunctionVerifier, VerifierContext, verdict, verifier
from rlvr.protocols import Execution, Verifier
from rlvr.records import Check, Prompt, Status, Verdict
from rlvr.run.offline import completion_from_text


def ask(decorated: FunctionVerifier[..., Any], text: str = "4", **settings: object) -> Any:
    built_class = decorated.as_class()
    built = built_class(built_class.Config(**settings), VerifierContext())
    assert isinstance(built, Verifier)
    check = Check(name="main", verifier="x", reference="4")
    prompt = Prompt(prompt_id="p", text="2 + 2", checks=(check,), source="test")
    return built.verify(prompt, completion_from_text(text, prompt_id="p"))


def test_a_function_receives_what_it_names() -> None:
    @verifier(version="1")
    def nosy(prompt: Prompt, reference: str, text: str, completion: object) -> bool:
        return prompt.text == "2 + 2" and reference == text and completion is not None

    assert ask(nosy).status is Status.PASS
    assert ask(nosy, "5").status is Status.FAIL


def test_keyword_only_parameters_are_settings() -> None:
    @verifier(version="1", name="near")
    def is_near(text: str, reference: str, *, by: int = 0) -> bool:
        return abs(int(text) - int(reference)) <= by

    assert ask(is_near, "5").status is Status.FAIL
    assert ask(is_near, "5", by=1).status is Status.PASS
    with pytest.raises(ValidationError):
        ask(is_near, by="many")
    with pytest.raises(ValidationError):
        ask(is_near, other=1)
    assert is_near("5", "4", by=1) is True


def test_a_score_passes_from_its_threshold() -> None:
    @verifier(version="1", pass_score=0.5)
    def share(text: str) -> float:
        return float(text)

    assert (ask(share, "0.5").status, ask(share, "0.5").score) == (Status.PASS, 0.5)
    assert (ask(share, "0.4").status, ask(share, "0.4").score) == (Status.FAIL, 0.4)
    with pytest.raises(PluginError, match="score in"):
        ask(share, "1.5")
    with pytest.raises(PluginError, match="score in"):
        ask(share, "nan")


def test_an_asynchronous_function_is_awaited() -> None:
    @verifier(version="1", execution=Execution.ASYNC)
    async def later(text: str, reference: str) -> bool:
        return text == reference

    async def wait() -> Verdict:
        return await ask(later)

    assert asyncio.run(wait()).status is Status.PASS


def test_a_verdict_is_stamped_with_name_and_version() -> None:
    @verifier(version="2.1")
    def own(text: str) -> Verdict:
        return verdict(own, Status.UNPARSED, "nothing to read", details={"why": "empty"})

    answer = ask(own)
    assert (answer.verifier, answer.score) == ("own@2.1", 0.0)
    assert answer.details == {"why": "empty"}


def test_signatures_that_cannot_be_served_are_refused_at_once() -> None:
    with pytest.raises(PluginError, match="'answer' is not one of"):

        @verifier(version="1")
        def wrong_name(answer: str) -> bool:
            return bool(answer)

    with pytest.raises(PluginError, match="needs a default"):

        @verifier(version="1")
        def no_default(text: str, *, by: int) -> bool:
            return bool(text) and by > 0

    with pytest.raises(PluginError, match="version"):
        verifier(version="")


def test_a_function_that_sees_no_answer_is_refused() -> None:
    with pytest.raises(PluginError, match=r"'f' takes none of text, .*write def f\(text"):

        @verifier(version="1")
        def f(*, strict: bool = True) -> bool:
            return strict


def test_a_function_that_yields_is_refused() -> None:
    with pytest.raises(PluginError, match="'f' yields; a verifier returns one bool"):

        @verifier(version="1")
        def f(text: str) -> Iterator[bool]:
            yield bool(text)
