"""`verifier: reasoning_gym:TASK`: the package's score in a worker, references, and the audit on the task's own rows."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rlvr.commands.audit import AuditChoice, audit_choice
from rlvr.data.row_sources import plugin_rows
from rlvr.errors import PluginError
from rlvr.plugin import SourceRow, VerifierContext, completion_from_text
from rlvr.records import Check, Execution, Prompt, Status, Verdict
from rlvr.registry import VERIFIERS, build_verifier, find
from rlvr.verification.jailed.jail import execution_of
from rlvr.verification.service import VerifierService
from rlvr_verifiers.adapters.reasoning_gym import known_flaws as table
from rlvr_verifiers.adapters.reasoning_gym.known_flaws import KnownFlaws
from rlvr_verifiers.adapters.reasoning_gym.verifier import ReasoningGymVerifier
from tests.unit.sandboxes.sandbox_cases import make

PACKAGE = Path(__file__).parent / "package"

CONTEXT = VerifierContext()


@pytest.fixture
def service(gym: object) -> Iterator[VerifierService]:
    service = VerifierService(workers=1, deadline_s=10.0)
    yield service
    service.close()


def row(task: str, python: str, **settings: Any) -> SourceRow:
    settings = {"size": 5, "python": python, **settings}
    return plugin_rows(f"reasoning_gym:{task}", settings, split="train", seed=0)[0]


def the_check(task: str, reference: Any = None, *, execution: Execution = Execution.PROCESS, **settings: Any) -> Check:
    """A check of the stand-in, which a worker outside the jail imports as this process does."""
    return Check(
        name="main",
        verifier=f"reasoning_gym:{task}",
        settings=settings,
        reference=reference,
        execution=execution,
        readable=(str(PACKAGE),) if execution is Execution.JAILED else (),
    )


def judged(service: VerifierService, task: str, reference: Any, *texts: str, **given: Any) -> list[Verdict]:
    check = the_check(task, reference, **given)
    prompt = Prompt(prompt_id="row", checks=(check,), source="test", text="?")
    pairs = [(prompt, completion_from_text(text, prompt_id="row")) for text in texts]
    return [found["main"] for found in service.verify_batch(pairs)]


def test_the_score_is_the_packages_own(service: VerifierService, gym_python: str):
    reference: Any = row("sums", gym_python).reference
    gold = reference["answer"]
    texts = (f"I add. <answer> {gold} </answer>", f"<answer>{gold * 2}</answer>", "<answer>x</answer>", gold)
    full, half, wrong, untagged = judged(service, "sums", reference, *texts)
    assert (full.status, full.score, full.extracted) == (Status.PASS, 1.0, gold)
    assert full.verifier == "reasoning_gym:sums@1"
    assert (half.status, half.score) == (Status.FAIL, 0.5)
    assert (wrong.status, wrong.score) == (Status.FAIL, 0.0)
    assert (untagged.status, untagged.score) == (Status.UNPARSED, 0.0)
    [last_line] = judged(service, "sums", reference, f"So:\n{gold}\n", answer="last_line")
    assert last_line.passed


def test_an_entry_arrives_with_its_types(service: VerifierService, gym_python: str):
    reference: Any = row("grids", gym_python).reference
    [verdict] = judged(service, "grids", reference, f"<answer>{reference['answer']}</answer>")
    assert verdict.passed


def test_an_answer_on_which_the_scorer_raises_is_unparsed(service: VerifierService, gym_python: str):
    reference = row("raises", gym_python).reference
    [verdict] = judged(service, "raises", reference, "<answer>banana</answer>")
    assert verdict.status is Status.UNPARSED
    assert verdict.details == {"raised": "ValueError"}
    assert "invalid literal" in verdict.reason


def test_a_score_that_rounding_took_above_1_is_1_and_one_far_above_is_an_error(
    service: VerifierService, gym_python: str
):
    reference: Any = row("rounds", gym_python).reference
    texts = (f"<answer>{reference['answer']}</answer>", "<answer>two</answer>")
    full, beyond = judged(service, "rounds", reference, *texts)
    assert (full.status, full.score) == (Status.PASS, 1.0)
    assert beyond.status is Status.ERROR
    assert "returned 2.0, and a score is in [0, 1]" in beyond.reason


def test_a_composite_scores_each_row_by_its_own_task(service: VerifierService, gym_python: str):
    for task in ("sums", "no_gold"):
        reference: Any = row("composite", gym_python, tasks={task: {}}).reference
        gold = reference["answer"] or reference["metadata"]["example_answer"]
        [verdict] = judged(service, "composite", reference, f"<answer>{gold}</answer>")
        assert (verdict.status, verdict.reason) == (Status.PASS, f"{task} scored it 1")


def test_references_are_checked_before_a_run(service: VerifierService, gym_python: str):
    good: Any = row("sums", gym_python).reference
    bad_gold = row("bad_gold", gym_python).reference
    checks = [
        the_check(task, reference)
        for task, reference in (
            ("sums", good),
            ("sums", {**good, "task": "grids"}),
            ("sums", {"question": "?"}),
            ("sums", "7"),
            ("bad_gold", bad_gold),
            ("no_gold", row("no_gold", gym_python).reference),
            ("no_gold", {**good, "task": "no_gold", "answer": None}),
            ("composite", {key: good[key] for key in ("question", "answer", "metadata")}),
        )
    ]
    problems = service.reference_problems(checks)
    assert [bool(problem) for problem in problems] == [False, True, True, True, True, False, False, True]
    assert "its task is 'grids', and the verifier is reasoning_gym:sums" in problems[1]
    assert "it has no answer and no metadata" in problems[2]
    assert "it is str" in problems[3]
    assert "gets the score 0.5 from reasoning-gym" in problems[4]
    assert "it has no task" in problems[7]


def test_the_package_is_imported_by_warm_up_and_not_where_a_verifier_is_only_built(gym: object):
    built: Any = build_verifier(find(VERIFIERS, "reasoning_gym:sums"), {}, CONTEXT)
    assert "reasoning_gym" not in sys.modules
    built.warm_up()
    assert "reasoning_gym" in sys.modules
    unknown: Any = build_verifier(find(VERIFIERS, "reasoning_gym:nothing"), {}, CONTEXT)
    with pytest.raises(ValueError, match="'nothing' not registered"):
        unknown.warm_up()


def test_a_missing_package_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    built: Any = build_verifier(find(VERIFIERS, "reasoning_gym:sums"), {}, CONTEXT)
    with pytest.raises(ImportError, match="pip install reasoning-gym"):
        built.warm_up()


def test_an_exploitable_task_is_refused_unless_allowed(monkeypatch: pytest.MonkeyPatch):
    flaws = KnownFlaws(version="0.1.25", exploitable={"pays_all": "pays for any text"}, remarks={})
    monkeypatch.setattr(table, "known_flaws", lambda: flaws)
    source = find(VERIFIERS, "reasoning_gym:pays_all")
    with pytest.raises(PluginError, match="pays_all: pays for any text"):
        build_verifier(source, {}, CONTEXT)
    build_verifier(source, {"allow_exploitable": True}, CONTEXT)


def test_the_package_runs_in_the_jail_by_default(gym_python: str, tmp_path: Path):
    """Its scorer executes the answer, which changes nothing outside."""
    assert execution_of(Check(name="main", verifier="reasoning_gym:executes")) is Execution.JAILED
    make("namespaces")  # skips where the machine cannot
    service = VerifierService(1, 10.0, ("namespaces", {"slots": 2, "preimport": [], "should_self_test": False}))
    reference: Any = row("executes", gym_python).reference
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(0o777)
    answer = f"__import__('os').system('touch {folder}/mark') * 0 + {reference['answer']}"
    try:
        [verdict] = judged(service, "executes", reference, f"<answer>{answer}</answer>", execution=Execution.JAILED)
    finally:
        service.close()
    assert verdict.passed
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(("task", "findings"), [("pays_all", {"exploit"}), ("sums", set())])
def test_an_audit_without_data_attacks_the_tasks_own_rows(
    gym_python: str, gym: Path, monkeypatch: pytest.MonkeyPatch, task: str, findings: set[str]
):
    """The scores of `sums` grade how near an answer is, which is no exploit."""
    monkeypatch.setattr(ReasoningGymVerifier, "execution", Execution.PROCESS)
    choice = AuditChoice(
        verifier=f"reasoning_gym:{task}",
        settings={},
        data=None,
        recipe=None,
        cases=None,
        num_rows=4,
        partial_credit=None,
        deadline_s=10.0,
        time_limit_s=0.5,
        sandbox=("auto", {}),
        source={"python": gym_python},
    )
    [report] = audit_choice(choice)
    assert report.num_gold_passed == report.num_gold == report.num_rows == 4
    assert {finding.problem.value for finding in report.findings} == findings
