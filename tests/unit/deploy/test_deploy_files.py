"""The rendered files of two recipes, and what is refused. `RLVR_UPDATE_GOLDEN=1` rewrites the golden files."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from rlvr.cli import app
from rlvr.config.load import load_recipe
from rlvr.deploy.choices import Choices, Kind, Target
from rlvr.deploy.layout import layout_of
from rlvr.deploy.model_size import ModelSize, model_size
from rlvr.deploy.render import render
from rlvr.errors import ConfigError
from rlvr.planner.hardware import parse_hardware
from tests.unit.config.recipe_cases import assert_golden
from tests.unit.deploy.deploy_cases import NODE, QUICKSTART, SIZE, nasty_recipe, rendered

GOLDEN = Path(__file__).parents[2] / "golden" / "deploy"
OPTIONS = {QUICKSTART: {"is_cpu": True, "parameters": "135M"}, NODE: {"gpus": "1x8x80GB", "parameters": SIZE}}


@pytest.fixture(scope="module")
def quickstart_size() -> ModelSize:
    """Read from the model's file, which takes seconds."""
    return model_size(load_recipe(QUICKSTART).recipe)


@pytest.mark.parametrize("target", Target)
@pytest.mark.parametrize("recipe", [QUICKSTART, NODE])
def test_the_files_equal_their_golden_files(recipe: str, target: Target) -> None:
    for name, text in rendered(recipe, target=target, **OPTIONS[recipe]).items():
        assert_golden(text, GOLDEN / recipe / name)


def test_a_local_recipe_is_refused_with_what_to_set() -> None:
    with pytest.raises(ConfigError, match=r"recipe 'quickstart' has cluster.backend=local.*Set cluster.backend=ray"):
        rendered("quickstart", target=Target.SLURM)


@pytest.mark.parametrize(
    ("overrides", "gpus", "nodes", "per_node"),
    [
        ((), "", 1, 8),  # four learners and four engines
        (("cluster.engines=5",), "", 2, 8),  # nine GPUs on nodes of eight
        (("cluster.engines=2",), "4x8x80GB", 1, 6),
        (("cluster.learners=8", "cluster.engines=4", "rollout.engine_args.tensor_parallel_size=4"), "3x8x80GB", 3, 8),
        # learners 7 + 7 + 6; engines of two GPUs do not fit beside seven learners, so that a fourth node is needed
        (("cluster.learners=20", "cluster.engines=2", "rollout.engine_args.tensor_parallel_size=2"), "4x8x80GB", 4, 8),
        (("cluster.placement=colocated", "rollout.max_staleness=0"), "", 1, 4),
    ],
)
def test_nodes_hold_the_bundles_that_a_run_reserves(
    overrides: tuple[str, ...], gpus: str, nodes: int, per_node: int
) -> None:
    recipe = load_recipe(NODE, overrides).recipe
    hardware = parse_hardware(gpus) if gpus else None
    found = layout_of(recipe, model_size(recipe, given=SIZE), hardware=hardware, is_cpu=False)
    assert (found.nodes, found.gpus_per_node) == (nodes, per_node)


def test_hardware_that_is_too_small_is_refused_with_the_arithmetic() -> None:
    with pytest.raises(ConfigError, match=r"needs 2 nodes of 4 GPUs \(4 learners, 4 engines of 1 GPU\).*has 1"):
        rendered(NODE, target=Target.SLURM, gpus="1x4x80GB", parameters=SIZE)
    wide = "rollout.engine_args.tensor_parallel_size=16"
    with pytest.raises(ConfigError, match="16 GPUs must be on one node"):
        rendered(NODE, wide, target=Target.SLURM, parameters=SIZE)
    with pytest.raises(ConfigError, match="exclude each other"):
        rendered(NODE, target=Target.SLURM, gpus="1x8x80GB", is_cpu=True)


def test_the_size_comes_from_the_user_the_config_the_name_or_is_marked_as_a_guess(quickstart_size: ModelSize) -> None:
    recipe = load_recipe(NODE).recipe
    assert model_size(recipe, given="7B").parameters == 7_000_000_000
    assert quickstart_size.parameters == 134_515_008
    elsewhere = load_recipe(NODE, ("model.path=nobody/Nothing-1.5B-it",)).recipe
    assert model_size(elsewhere).parameters == 1_650_000_000
    unnamed = ("model.path=nobody/nothing",)
    files, notes = render(NODE, unnamed, target=Target.SLURM, choices=Choices())
    assert "render again with --parameters" in notes[0]
    assert "# CHECK: the size of model.path='nobody/nothing' is not known here" in files["job.sbatch"]
    with pytest.raises(ConfigError, match="write 7B"):
        model_size(recipe, given="seven")


def test_shared_memory_is_what_the_readme_says() -> None:
    """docker/README.md: `24g` for 3B in bfloat16, `58g` for 7B."""
    recipe = load_recipe(NODE).recipe
    for given, gib in (("3.09B", 24), ("7.62B", 58)):
        assert layout_of(recipe, model_size(recipe, given=given), hardware=None, is_cpu=False).shm_gib == gib


def test_memory_of_the_gpus_is_checked_where_the_config_is_here(quickstart_size: ModelSize) -> None:
    long = ("rollout.max_completion_tokens=100000", "learner.micro_batch_tokens=200000")
    recipe = load_recipe(QUICKSTART, long).recipe
    notes = layout_of(recipe, quickstart_size, hardware=parse_hardware("1x8x4GB"), is_cpu=False).notes
    assert any("learner GPU" in note for note in notes)


def test_no_value_of_a_recipe_ends_a_comment_or_a_string(tmp_path: Path) -> None:
    path = nasty_recipe(tmp_path)
    for target in Target:
        for name, text in rendered(str(path), target=target, is_cpu=True).items():
            if name.endswith(".yaml"):
                kinds = [document.get("kind") for document in yaml.safe_load_all(text)]
                assert "Secret" not in kinds
            else:
                assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0


def test_the_command_prints_one_file_or_writes_all(tmp_path: Path) -> None:
    runner = CliRunner()
    command = ["cluster", "render", QUICKSTART, "--cpu", "--parameters", "135M", "--target", "kuberay", "run.steps=3"]
    printed = runner.invoke(app, command)
    assert printed.exit_code == 0
    assert [document["kind"] for document in yaml.safe_load_all(printed.stdout)] == ["ConfigMap", "RayJob"]
    written = runner.invoke(app, [*command, "--output", str(tmp_path / "new")])
    assert written.exit_code == 0
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["rayjob.yaml", "volumes.yaml"]
    assert (tmp_path / "new" / "rayjob.yaml").read_text() == printed.stdout


def test_an_option_of_another_target_is_refused() -> None:
    with pytest.raises(ConfigError, match="--target compose does not use --venv"):
        rendered(QUICKSTART, target=Target.COMPOSE, venv="/opt/rlvr")
    with pytest.raises(ConfigError, match="--target slurm does not use --namespace, --image"):
        rendered(QUICKSTART, target=Target.SLURM, namespace="ml", image="x")
    with pytest.raises(ConfigError, match="--target compose does not use --max-restarts"):
        rendered(QUICKSTART, target=Target.COMPOSE, max_restarts=3)
    with pytest.raises(ConfigError, match="--target kuberay --kind cluster does not use --max-restarts"):
        rendered(QUICKSTART, target=Target.KUBERAY, kind=Kind.CLUSTER, max_restarts=7)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"namespace": "A_B c"}, "--namespace 'A_B c' is not the name of a Kubernetes namespace"),
        ({"namespace": "a.b"}, "--namespace 'a.b' is not"),
        ({"namespace": "a" * 64}, "is not the name of a Kubernetes namespace"),
        ({"token_secret": "A_B c"}, "--token-secret 'A_B c' is not the name of a Kubernetes Secret"),
        ({"token_secret": "a..b"}, "--token-secret 'a..b' is not"),
        ({"image": " "}, "--image ' ' is not the name of an image"),
    ],
)
def test_a_name_that_kubernetes_or_an_engine_would_refuse_is_refused(options: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        Choices(**options).require_valid(Target.KUBERAY)


def test_names_that_kubernetes_allows_are_accepted() -> None:
    Choices(namespace="ml-1", token_secret="ray.token-1", image="registry:5000/rlvr:gpu", max_restarts=0).require_valid(
        Target.KUBERAY
    )
    with pytest.raises(ConfigError, match="--container-image ' ' is not the name of an image"):
        Choices(container_image=" ").require_valid(Target.SLURM)
