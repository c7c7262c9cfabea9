"""Reading configurations: scripts of a shell and of Python are not executed, and what is not read is said."""

from pathlib import Path

import pytest

from rlvr.errors import ConfigError
from rlvr.imports.importing import import_config
from rlvr.imports.read.files import read_config
from rlvr.imports.read.interpolation import resolved
from rlvr.imports.read.python_script import read_script
from rlvr.imports.read.shell_script import read_shell
from rlvr.imports.records import Reading
from rlvr.imports.table import read_rules


def shell(text: str) -> Reading:
    return read_shell(text, label="run.sh")


def values(reading: Reading) -> dict[str, object]:
    return {key: given.value for key, given in reading.keys.items() if not given.unread}


def test_a_shell_script_is_read_with_variables_arrays_arithmetic_and_defaults() -> None:
    text = (
        "N=${N:-4}   # a comment\nLEN=$((1024 * N + 8))\n"
        "DATA=(\n    data.train_files=\"['$HOME/a.parquet', 'b.parquet']\"\n    data.max_response_length=${LEN}\n)\n"
        "DATA+=(data.seed=1)\n"
        'python -m verl.trainer.main_ppo \\\n  "${DATA[@]}" \\\n  +trainer.nnodes=$N ++a.b=x ~data.seed= "$@"\n'
    )
    assert values(shell(text)) == {
        "data.train_files": ["~/a.parquet", "b.parquet"],
        "data.max_response_length": 4104,
        "trainer.nnodes": 4,
        "a.b": "x",
    }


def test_places_are_lines_of_the_script() -> None:
    reading = shell("A=(\n    a.b=1\n    a.c=2\n)\nrun \\\n    ${A[@]} \\\n    a.d=3\n")
    assert [reading.keys[key].place for key in ("a.b", "a.c", "a.d")] == ["run.sh:2", "run.sh:3", "run.sh:7"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("if [ $X ]; then\n  Y=1\nfi\nrun a.b=$Y", "its value needs $Y, which is set under a condition"),
        ("run a.b=$Y", "its value needs $Y, which is not set in the script"),
        ("Y=$(nproc --all)\nrun a.b=$Y", "its value is the output of a command"),
    ],
)
def test_what_only_a_shell_can_know_is_unread(text: str, why: str) -> None:
    assert shell(text).keys["a.b"].unread == why


def test_keys_under_a_condition_are_reported() -> None:
    text = "X=1\ncase $Z in\n  a) X=2; run a.b=3 ;;\nesac\nfor i in 1 2; do run a.c=$i; done\nrun a.x=$X\n"
    reading = shell(text)
    assert values(reading) == {"a.x": 1}
    assert "a.b=3" in reading.notes[0]
    assert "a.c=$i" in reading.notes[0]
    assert "X (line 3)" in reading.notes[1]


def test_nothing_of_a_script_is_executed(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    (tmp_path / "run.sh").write_text(
        f"touch {trap}\nX=$(touch {trap})\nrun data.seed=$X trainer.nnodes=`touch {trap}`\n"
    )
    (tmp_path / "train.py").write_text(
        f"open({str(trap)!r}, 'w')\nfrom trl import GRPOConfig\nGRPOConfig(seed=open(1))\n"
    )
    read_config(tmp_path / "run.sh", is_flat=False)
    read_config(tmp_path / "train.py", is_flat=True)
    assert not trap.exists()


def test_a_python_script_is_read_by_its_syntax() -> None:
    text = (
        "import rewards.lengths as lengths\nfrom my.rewards import good as fine\n"
        "from trl import GRPOConfig, GRPOTrainer\n"
        "rate = 1e-5\ndata = load_dataset('a/b', 'main')['train']\n"
        "def main():\n    def own(completions): ...\n"
        "    args = GRPOConfig(learning_rate=rate, seed=int('1'), beta=-0.5)\n"
        "    GRPOTrainer('Qwen/Q', [fine, lengths.short, own], args, data)\n"
        "if __name__ == '__main__':\n    main()\n"
    )
    reading = read_script(text, label="train.py")
    assert values(reading) == {
        "learning_rate": 1e-5,
        "beta": -0.5,
        "model_name_or_path": "Qwen/Q",
        "reward_funcs": ["my.rewards.good", "rewards.lengths.short", "train.py:own"],
        "dataset_name": "a/b",
        "dataset_config": "main",
        "dataset_train_split": "train",
    }
    assert reading.keys["seed"].unread == "int('1') is not a literal"
    assert reading.notes == []


def test_a_script_without_a_guard_must_not_be_imported_for_its_rewards() -> None:
    text = "def own(completions): ...\nGRPOTrainer('m', reward_funcs=own, args=GRPOConfig(**settings))\n"
    notes = read_script(text, label="train.py").notes
    assert any("GRPOConfig(**...) was not read" in note for note in notes)
    assert any("importing it would start its training" in note for note in notes)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("${data.max_response_length}", 99),
        ("${oc.select:data.max_response_length,5}", 99),
        ("${oc.select:a.missing,5}", 5),
        ("${.sibling}", "s"),
        ("${oc.env:HOME,7}", 7),
        ("${trainer.total_epochs}", 30),
    ],
)
def test_interpolations_are_resolved(value: str, found: object, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"data: {{max_response_length: 99}}\na: {{b: '{value}', sibling: s}}\n")
    reading = resolved(read_config(path, is_flat=False), read_rules("verl"))
    assert reading.keys["a.b"].value == found


@pytest.mark.parametrize("value", ["${a.c}", "${a.unknown}", "${oc.decode:x}", "???"])
def test_an_interpolation_without_a_value_is_unread(value: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(f"a: {{b: '{value}', c: '${{a.b}}'}}\n")
    assert resolved(read_config(path, is_flat=False), read_rules("verl")).keys["a.b"].unread


@pytest.mark.parametrize(
    ("trainer", "name", "text", "message"),
    [
        ("trl", "missing.yaml", None, "missing.yaml"),
        ("trl", "a.yaml", "orchestrator: {batch_size: 4}\n", "try `rlvr import prime-rl"),
        ("trl", "a.sh", "run actor_rollout_ref.rollout.n=5", "try `rlvr import verl"),
        ("prime-rl", "a.yaml", "num_generations: 4\nmax_steps: 5\n", "try `rlvr import trl"),
        ("verl", "a.toml", "[orchestrator]\nbatch_size = 8\n", "it looks like one of prime-rl"),
        ("trl", "a.yaml", "rollout: {group_size: 4}\n", "it looks like a recipe of rlvr"),
        ("trl", "a.yaml", "nothing: here\n", "none of its keys is known (nothing)"),
        ("trl", "a.json", "{", "a.json is not JSON"),
        ("trl", "a.json", "[1]", "a.json holds a list"),
        ("prime-rl", "a.toml", "[a", "a.toml is not TOML"),
        ("trl", "a.py", "def", "a.py is not Python"),
        ("trl", "a.py", "x = 1", "calls neither GRPOConfig nor GRPOTrainer"),
        ("verl", "a.sh", "echo", "holds no configuration"),
        ("trl", "a.yaml", "num_generations: many\n", "a.yaml:1: num_generations: must be a number (got 'many')"),
        ("trl", "a.yaml", "num_generations: 1\n", "contradict each other in a recipe; replace one by KEY=VALUE"),
        ("trl", "a.yaml", "num_generations: 7\n", "not divisible by num_generations=7"),
        ("verl", "a.txt", "actor_rollout_ref.rollout.n=0", "a.txt:1: actor_rollout_ref.rollout.n: must be at least 1"),
        ("verl", "a.txt", "actor_rollout_ref.model.path=m", "actor_rollout_ref.rollout.n=8"),
        ("prime-rl", "a.toml", "orchestrator.batch_size = 8", "orchestrator.group_size=8"),
        ("tlr", "a.yaml", "seed: 1", "'tlr' is not a trainer: 'trl', 'verl' or 'prime-rl'; did you mean 'trl'?"),
    ],
)
def test_a_file_that_is_no_configuration_of_the_trainer_is_an_error(
    trainer: str, name: str, text: str | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError) as error:
        import_config(trainer, path)
    assert message in str(error.value)
