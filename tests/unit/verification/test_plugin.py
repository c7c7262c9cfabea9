"""The decorator for verifier functions: arguments, settings, returned values."""

import asyncio
import json
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any, cast

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from rlvr.commands.verify_file import completion_from_text
from rlvr.contracts import check_verifier
from rlvr.errors import PluginError
from rlvr.peer_arguments import PEER_ARGUMENTS
from rlvr.plugin import FunctionVerifier, VerifierContext, verdict, verifier
from rlvr.protocols import Execution, Verifier
from rlvr.records import Check, Prompt, Status, Verdict


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
    with pytest.raises(PluginError, match=r"returned 1\.5, but a score must be in \[0, 1\]"):
        ask(share, "1.5")
    with pytest.raises(PluginError, match="returned nan, which is not a score"):
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
    with pytest.raises(PluginError, match="'strict' is not one of"):

        @verifier(version="1")
        def wrong_name(text: str, strict: bool) -> bool:
            return bool(text) and strict

    with pytest.raises(PluginError, match="needs a default"):

        @verifier(version="1")
        def no_default(text: str, *, by: int) -> bool:
            return bool(text) and by > 0

    with pytest.raises(PluginError, match=r'write @verifier\(version="1"\)'):
        verifier(version="")
    with pytest.raises(PluginError, match=r'bare: .*write @verifier\(version="1"\) above'):

        @verifier
        def bare(text: str) -> bool:
            return bool(text)

    with pytest.raises(PluginError, match=r"\*\*kwargs would always be empty; remove it"):

        @verifier(version="1")
        def with_kwargs(text: str, **kwargs: object) -> bool:
            return bool(text)


@pytest.mark.parametrize("name", PEER_ARGUMENTS)
def test_a_peers_parameter_gets_rlvrs_name_and_is_never_called_a_setting(name: str) -> None:
    ours = PEER_ARGUMENTS[name][1]
    assert ours in ("text", "reference", "completion", "prompt", "")
    scope: dict[str, Any] = {}
    exec(f"def reward(text, {name}): return 1.0", scope)
    with pytest.raises(PluginError) as caught:
        verifier(version="1")(scope["reward"])
    assert f"'{name}' is " in str(caught.value)
    assert f"use `{ours}`" in str(caught.value) if ours else "remove it" in str(caught.value)
    assert "setting" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "status", "score"),
    [
        (np.float32(0.5), Status.FAIL, 0.5),
        (np.float64(1.0), Status.PASS, 1.0),
        (np.bool_(True), Status.PASS, 1.0),
        (np.array([1, 2])[0] == 2, Status.FAIL, 0.0),
        (np.int64(1), Status.PASS, 1.0),
        (np.array(0.25), Status.FAIL, 0.25),
        (torch.tensor(1.0), Status.PASS, 1.0),
        (torch.tensor(False), Status.FAIL, 0.0),
        (torch.tensor(0.5, dtype=torch.bfloat16), Status.FAIL, 0.5),
        (Decimal("0.5"), Status.FAIL, 0.5),
        (Fraction(1, 4), Status.FAIL, 0.25),
        (1, Status.PASS, 1.0),
    ],
    ids=repr,
)
def test_what_plainly_is_a_bool_or_a_number_is_taken(value: Any, status: Status, score: float) -> None:
    @verifier(version="1")
    def given(text: str) -> Any:
        return value

    answer = ask(given)
    assert (answer.status, answer.score) == (status, score)
    assert type(answer.score) is float
    json.dumps([answer.score, answer.reason])  # it crosses a process border


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (np.array([1.0]), r"of type ndarray and shape \(1,\); return one bool"),
        (torch.ones(2), r"of type Tensor and shape \(2,\)"),
        (np.float32("nan"), "returned nan, which is not a score"),
        (float("inf"), "returned inf, which is not a score"),
        (-0.5, r"a score must be in \[0, 1\]; shift and scale"),
        (np.float32(2), r"returned 2, but a score must be in \[0, 1\]"),
        ("1.0", "of type str"),
        (None, "of type NoneType"),
        (1 + 0j, "of type complex"),
    ],
    ids=repr,
)
def test_what_is_no_score_is_refused_with_its_value(value: Any, what: str) -> None:
    @verifier(version="1")
    def given(text: str) -> Any:
        return value

    with pytest.raises(PluginError, match=what):
        ask(given)


def test_a_constant_score_out_of_range_is_refused_before_a_run_with_its_line() -> None:
    @verifier(version="1")
    def below(text: str) -> float:
        return 1.0 if text else -1.0

    @verifier(version="1")
    async def above(text: str) -> float:
        if text:
            return 10
        return 0

    @verifier(version="1")
    def fine(text: str) -> float:
        inner = -1.0  # a number that is not returned
        return 0.5 if len(text) > inner else 1

    with pytest.raises(PluginError, match=r"'below' \(line \d+\) returned -1, .*\(r \+ 1\) / 2"):
        below.as_class()
    with pytest.raises(PluginError, match="returned 10, but"):
        above.as_class()
    assert fine.as_class().name == "fine"
    assert "returned -1" in check_verifier(below, passing=[("4", "4")], failing=[])[0]


def test_the_score_of_a_verdict_may_be_a_scalar_of_numpy() -> None:
    answer = Verdict(status=Status.PASS, score=cast(float, np.float32(1)), reason="r", verifier="v@1", seconds=0.0)
    assert type(answer.score) is float


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
