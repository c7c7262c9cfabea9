"""What this machine lacks is reported before anything is created, by a dry run and by a real start."""

import os
from pathlib import Path

import pytest

from rlvr import cli
from rlvr.commands import train
from rlvr.config import extras
from rlvr.config.load import load_recipe
from rlvr.errors import ConfigError
from rlvr.run.launch import machine_checks
from rlvr.run.launch.machine_checks import require_machine
from rlvr.run.launch.request import RunRequest
from rlvr.run.record import sinks

LACKING = {
    "learner.num_threads=100000": r"learner\.num_threads=100000: at most \d+ on this machine of",
    "cluster.learners=1000": r"cluster\.learners=1000: each is a process with the whole model",
    "learner.device=banana": r"learner\.device='banana' cannot be used: .*; `rlvr doctor`",
    "learner.device=cuda:99": r"learner\.device='cuda:99' cannot be used: ",
    "learner.device=meta": r"learner\.device='meta' holds no numbers",
    "run.trackers=[wandb]": r"run\.trackers names 'wandb', but the package is not installed",
    "run.trackers=[trackio]": r"names 'trackio', but the package is not installed; `pip install",
    "model.lora.rank=4": r"model\.lora\.rank above 0 needs peft: pip install",
    "learner.optimizer=adamw_8bit": r"learner\.optimizer=adamw_8bit needs bitsandbytes",
    "learner.kernels=liger": r"learner\.kernels=liger needs liger-kernel",
    "reward.verifier_workers=100000": r"100,000 verifier workers: each is a process, and at most \d+",
}


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (extras, machine_checks, sinks):
        monkeypatch.setattr(module, "is_missing", lambda name: name != "tensorboard")


@pytest.mark.usefixtures("nothing_installed")
@pytest.mark.parametrize("override", LACKING)
def test_a_dry_run_and_a_start_refuse_alike_and_make_nothing(
    override: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for is_dry in (True, False):
        with pytest.raises(ConfigError, match=LACKING[override]):
            cli.train("tiny", [override], dry_run=is_dry)
        assert not list(tmp_path.iterdir())


def test_a_cold_start_without_demonstrations_is_refused_before_a_folder_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    overrides = ["cold_start.steps=1", "data.train.0.source=generator:sums"]
    overrides += ["data.train.0.settings={}", "data.eval=[]"]
    for is_dry in (True, False):
        with pytest.raises(ConfigError, match="has no demonstrations"):
            cli.train("tiny", overrides, dry_run=is_dry)
        assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("nothing_installed")
def test_everything_missing_is_reported_at_once() -> None:
    recipe = load_recipe("tiny", ["run.trackers=[wandb]", "learner.num_threads=100000"]).recipe
    with pytest.raises(ConfigError) as caught:
        require_machine(recipe)
    assert len(str(caught.value).splitlines()) == 2


def test_a_sound_recipe_needs_nothing_more() -> None:
    require_machine(load_recipe("tiny", ["learner.num_threads=1"]).recipe)


@pytest.mark.parametrize("chosen", [None, Path("mine"), Path("there")])
def test_a_run_whose_policy_cannot_be_loaded_leaves_no_folder_and_moves_no_link(
    chosen: Path | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs/old").mkdir(parents=True)
    Path("there").mkdir()
    Path("runs/latest").symlink_to("old")

    def refuse(request: RunRequest) -> None:
        request.directory.recipe.write_text("name: x")  # as a start does before it loads the policy
        raise ConfigError("the weights cannot be read")

    monkeypatch.setattr(train, "train_with", refuse)
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    with pytest.raises(ConfigError, match="weights cannot be read"):
        cli.train("tiny", [], run_dir=chosen)
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before
    assert os.readlink("runs/latest") == "old"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("a" * 300, "File name too long"),
        ("/dev/null", "is a device"),
        ("pipe", "is a named pipe"),
        ("file", "is a file"),
        ("a\0b", "a name with a null character"),
    ],
)
def test_the_error_says_why_a_path_cannot_be_a_run_directory(
    path: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    Path("file").touch()
    with pytest.raises(ConfigError, match=f"{message}.*; choose another --run-dir"):
        cli.train("tiny", [], run_dir=Path(path))
