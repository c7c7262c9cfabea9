"""`reward_model` on a model made by hand (toy_reward_model): its truth table, what it refuses, and its process."""

import json
import math
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rlvr.contracts import check_verifier
from rlvr.errors import PluginError
from rlvr.plugin import VerifierContext, completion_from_text
from rlvr.records import Check, Message, Prompt, Status, Verdict
from rlvr.verification.service import VerifierService
from rlvr_verifiers.reward_model.scorer import Pair, Scorer
from rlvr_verifiers.reward_model.scores import ScoreKind, output_index, score_of
from rlvr_verifiers.reward_model.verifier import RewardModelConfig, RewardModelVerifier
from tests.unit.verifiers.judges import toy_reward_model as toy

TABLE = Path(__file__).parents[3] / "golden" / "verdicts" / "reward_model.jsonl"
ROWS = [json.loads(line) for line in TABLE.read_text(encoding="utf-8").splitlines()]
QUESTION = "What is left ?"
EXPLAINED, PLAIN = "because it is so", "It is 4"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.save(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[VerifierService]:
    """A service in which the model stays loaded; checks with other settings share its process."""
    opened = VerifierService(workers=1, deadline_s=30.0)
    opened.preflight([Check(name="main", verifier="reward_model", settings={"path": str(folder)})])
    yield opened
    opened.close()


def judged(service: VerifierService, folder: Path, *rows: dict[str, Any]) -> list[Verdict]:
    """Verdicts on rows of the table, together."""
    pairs = []
    for row in rows:
        settings = {"path": str(folder), **row.get("settings", {})}
        check = Check(name="main", verifier="reward_model", reference=row.get("reference"), settings=settings)
        asked = (Message(role="user", content=row.get("prompt", QUESTION)),)
        prompt = Prompt(prompt_id="p", checks=(check,), source="table", messages=asked)
        pairs.append((prompt, completion_from_text(row["completion"], prompt_id="p")))
    return [found["main"] for found in service.verify_batch(pairs)]


def test_verdicts_are_as_the_table_says(service: VerifierService, folder: Path) -> None:
    verdicts = judged(service, folder, *ROWS)
    wrong = [
        f"{row['why']}: {verdict.status} ({verdict.reason})"
        for row, verdict in zip(ROWS, verdicts, strict=True)
        if verdict.status != row["status"]
    ]
    assert wrong == []
    assert all(verdict.score is None for verdict in verdicts if verdict.status is Status.ERROR)


def test_the_table_has_all_outcomes_and_no_row_twice() -> None:
    statuses = Counter(row["status"] for row in ROWS)
    assert len(ROWS) >= 60
    assert set(statuses) == {"pass", "fail", "unparsed", "error"}
    assert len({json.dumps({**row, "why": ""}) for row in ROWS}) == len(ROWS)


def test_the_score_is_the_sigmoid_of_the_shifted_and_scaled_output(service: VerifierService, folder: Path) -> None:
    settings = {"temperature": 2.0, "offset": 1.0}
    plain, mapped = judged(service, folder, {"completion": EXPLAINED}, {"completion": EXPLAINED, "settings": settings})
    logit = plain.details["logit"]
    assert plain.score == pytest.approx(1 / (1 + math.exp(-logit)), abs=1e-12)
    assert mapped.details["logit"] == logit
    assert mapped.score == pytest.approx(1 / (1 + math.exp(-(logit - 1.0) / 2.0)), abs=1e-12)
    # 2 of 12 tokens; the mean over tokens is (10 sqrt(8) + 2 * 2) / 12 and 2 * 2 / 12 in the first two places
    first, second = 1.0 + (10 * 8**0.5 + 4) / 12, 4 / 12
    rms = math.sqrt((first**2 + second**2) / 8)
    assert logit == pytest.approx((-2.1 * first + 40.0 * second) / rms, rel=1e-4)


def test_checks_with_the_same_model_share_one_process(service: VerifierService, folder: Path) -> None:
    judged(service, folder, *({"completion": "a", "settings": {"pass_score": 0.1 * n}} for n in range(2, 9)))
    running = [thread for thread in threading.enumerate() if thread.name == "reward-model"]
    assert len(running) == 1


def test_it_keeps_the_contract_of_verifiers(service: VerifierService, folder: Path) -> None:
    problems = check_verifier(
        RewardModelVerifier,
        passing=[(None, EXPLAINED), (None, "because so")],
        failing=[(None, PLAIN), (None, ""), (None, "sorry")],
        settings={"path": str(folder)},
    )
    assert problems == []


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_pair_gets_one_score_whatever_is_scored_with_it(folder: Path, batch_size: int) -> None:
    scorer = Scorer(path=str(folder), batch_size=batch_size)
    texts = [EXPLAINED, PLAIN, "so " * 30, "maybe " * 70, "x", "therefore " * 100, "first then so " * 20]
    pairs = [Pair(messages=[{"role": "user", "content": QUESTION}], completion=text) for text in texts]
    alone = [scorer.score([pair])[0] for pair in pairs]
    assert scorer.score(pairs) == alone
    assert scorer.score(pairs[::-1]) == alone[::-1]
    assert scorer.score([pair for pair in pairs for _ in range(3)]) == [one for one in alone for _ in range(3)]


def test_padding_changes_an_output_by_rounding_alone(folder: Path) -> None:
    pairs = [Pair(messages=[{"role": "user", "content": QUESTION}], completion=t) for t in (EXPLAINED, "so " * 90)]
    alone, padded = (Scorer(path=str(folder), batch_size=size).score(pairs) for size in (1, 2))
    for one, other in zip(alone, padded, strict=True):
        assert other.logits == pytest.approx(one.logits, abs=1e-4)


def test_a_label_is_chosen_by_name_or_number_and_must_exist(tmp_path: Path) -> None:
    folder = toy.save(tmp_path, labels=("good", "poor", "bad"))
    scorer = Scorer(path=str(folder))
    (scored,) = scorer.score([Pair(messages=[{"role": "user", "content": QUESTION}], completion=EXPLAINED)])
    assert scorer.labels == ("good", "poor", "bad")
    assert scored.logits[0] > scored.logits[1] > scored.logits[2]
    assert [output_index(label, scorer.labels) for label in ("bad", "1")] == [2, 1]
    with pytest.raises(ValueError, match="it has 3 outputs and the setting `label` is empty; its outputs are 'good'"):
        output_index("", scorer.labels)
    with pytest.raises(ValueError, match="it has no output 'best'"):
        output_index("best", scorer.labels)


@pytest.mark.parametrize("logits", [(math.nan,), (math.inf,), (0.0, -math.inf)])
def test_an_output_that_is_not_finite_is_no_score(logits: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="outputs are not finite"):
        score_of(logits, 0, kind=ScoreKind.SIGMOID, temperature=1.0, offset=0.0)


def test_a_text_template_replaces_a_missing_chat_template(tmp_path: Path) -> None:
    folder = str(toy.save(tmp_path, has_template=False))
    with pytest.raises(ValueError, match="no chat template; give a text_template"):
        Scorer(path=folder)
    scorer = Scorer(path=folder, text_template="Q {prompt} A {completion}")
    ids = scorer.token_ids(Pair(messages=[{"role": "user", "content": "so"}], completion="then {prompt}"))
    words = [*toy.SPECIAL, toy.UNKNOWN, *toy.LIKED, *toy.DISLIKED]
    assert [words[i] for i in ids] == ["<|unk|>", "so", "<|unk|>", "then", *["<|unk|>"] * 3]


def test_a_model_that_is_not_whole_is_refused(folder: Path, tmp_path: Path) -> None:
    def changed(name: str, change: Any) -> str:
        made = toy.save(tmp_path / name)
        weights = load_file(made / "model.safetensors")
        change(weights)
        save_file(weights, made / "model.safetensors", metadata={"format": "pt"})
        return str(made)

    with pytest.raises(ValueError, match=r"the checkpoint lacks score\.weight, which would be random"):
        Scorer(path=changed("headless", lambda weights: weights.pop("score.weight")))
    with pytest.raises(ValueError, match=r"its weight model\.norm\.weight has values that are not finite"):
        Scorer(path=changed("broken", lambda weights: weights["model.norm.weight"].fill_(torch.nan)))
    with pytest.raises(ValueError, match="max_input_tokens=500 is more than it can take \\(128\\)"):
        Scorer(path=str(folder), max_input_tokens=500)
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="device 'cuda' is not visible to this process"):
            Scorer(path=str(folder), device="cuda")


def test_a_folder_that_does_not_exist_stops_the_run_before_it_starts(tmp_path: Path) -> None:
    service = VerifierService(workers=1, deadline_s=5.0)
    try:
        check = Check(name="main", verifier="reward_model", settings={"path": str(tmp_path / "missing")})
        with pytest.raises(PluginError, match=r"verifier 'reward_model' .*missing' is not a folder on this machine"):
            service.preflight([check])
    finally:
        service.close()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"pass_score": 0.0}, "pass_score"),
        ({"device": "gpu"}, "device"),
        ({"text_template": "{prompt}"}, "text_template has no {completion}"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RewardModelConfig(path="model", **settings)
    assert RewardModelVerifier(RewardModelConfig(path="model"), VerifierContext()).max_open == 4
