"""`rlvr check --gpus`: what fits on clusters that are not there, for the shapes of well-known models."""

import functools
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rlvr.cli import app
from rlvr.config.load import load_recipe
from rlvr.config.recipe import ModelConfig, Recipe
from rlvr.config.sections.cluster import WeightTransport
from rlvr.errors import ConfigError
from rlvr.models.policy import outline
from rlvr.planner.architecture import Architecture, architecture_of
from rlvr.planner.buffers import sync_buffers, transport_of
from rlvr.planner.cluster import ClusterPlan, plan_cluster
from rlvr.planner.hardware import Hardware, parse_hardware
from rlvr.planner.setup import Lengths, Setup, setup_of

# hidden, intermediate, layers, heads, key-value heads, vocabulary, tied: the published config.json of each
SHAPES = {
    "1.5B": (1536, 8960, 28, 12, 2, 151936, True),
    "7B": (3584, 18944, 28, 28, 4, 152064, False),
    "14B": (5120, 13824, 48, 40, 8, 152064, False),
    "32B": (5120, 27648, 64, 40, 8, 152064, False),
    "70B": (8192, 28672, 80, 64, 8, 128256, False),
}
PARAMETERS = {"1.5B": 1.54e9, "7B": 7.62e9, "14B": 14.8e9, "32B": 32.8e9, "70B": 70.6e9}
MIB = 1 << 20
HEAD = 2 * 152064 * 3584  # the largest tensor of the 7B shape, in bfloat16
COLOCATED = ("cluster.placement=colocated", "rollout.max_staleness=0")
LENGTHS = Lengths(prompt_mean=200, prompt_max=512, completion=4096)


def write_config(folder: Path, name: str) -> Path:
    hidden, wide, layers, heads, kv_heads, vocabulary, is_tied = SHAPES[name]
    config = {
        "model_type": "qwen2",
        "architectures": ["Qwen2ForCausalLM"],
        "hidden_size": hidden,
        "intermediate_size": wide,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
        "tie_word_embeddings": is_tied,
        "max_position_embeddings": 32768,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def recipe_with(*changes: str) -> Recipe:
    return load_recipe(
        "tiny",
        [
            "rollout.engine=vllm",
            "cluster.backend=ray",
            "learner.dtype=bfloat16_autocast",
            "rollout.engine_dtype=bfloat16",
            "learner.gradient_checkpointing=true",
            "learner.micro_batch_tokens=8192",
            "rollout.prompts_per_step=64",
            "rollout.group_size=8",
            "rollout.max_completion_tokens=4096",
            *changes,
        ],
    ).recipe


@functools.cache
def architecture(name: str) -> Architecture:
    with tempfile.TemporaryDirectory() as folder:
        return architecture_of(outline(ModelConfig(path=str(write_config(Path(folder), name)))))


def setup_with(recipe: Recipe, name: str) -> Setup:
    return setup_of(recipe, architecture(name), device="cuda", num_adapters=0, lengths=LENGTHS)


def plan(name: str, gpus: str, *changes: str) -> ClusterPlan:
    recipe = recipe_with(*changes)
    return plan_cluster(recipe, setup_with(recipe, name), parse_hardware(gpus), files_at_once=4)


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_come_from_a_config_file_alone(name: str) -> None:
    setup = setup_with(recipe_with(), name)
    assert setup.architecture.num_parameters == pytest.approx(PARAMETERS[name], rel=0.02)


def test_a_learner_that_needs_more_gpus_says_how_many() -> None:
    one = plan("7B", "2x80GB")
    assert any("learner GPU: 144" in problem and "cluster.learners=2 would fit" in problem for problem in one.problems)
    assert plan("7B", "3x80GB", "cluster.learners=2").fits


def test_an_engine_without_room_for_a_row_asks_for_tensor_parallelism() -> None:
    narrow = plan("70B", "8x8x80GB", "cluster.learners=32")
    assert any("tensor_parallel_size" in problem for problem in narrow.problems)
    wide = plan(
        "70B", "8x8x80GB", "cluster.learners=32", "rollout.engine_args={tensor_parallel_size: 4}",
        "cluster.engines=8", "learner.micro_batch_tokens=4608",
    )  # fmt: skip
    assert wide.fits
    assert wide.needed_gpus == 64


def test_learners_on_several_nodes_exchange_weights_and_gradients_over_the_network() -> None:
    one = plan("7B", "2x8x80GB", "cluster.learners=8", "cluster.engines=8")
    assert (one.learner_nodes, one.exchange_s) == (1, 0.0)
    two = plan("7B", "3x8x80GB", "cluster.learners=16", "cluster.engines=8")
    assert two.fits
    assert two.learner_nodes == 2
    setup = setup_with(recipe_with("cluster.learners=16", "cluster.engines=8"), "7B")
    size = (2 * 2 + 4) * setup.architecture.num_parameters * 15 / 16
    passes = setup.minibatches * setup.num_micro_batches
    assert two.exchange_s == pytest.approx(passes * size / two.hardware.rates.network)


def test_pipeline_stages_count_as_gpus_and_too_many_are_refused() -> None:
    found = plan(
        "14B", "8x80GB", "cluster.learners=4", "cluster.engines=2",
        "rollout.engine_args={tensor_parallel_size: 2, pipeline_parallel_size: 2}",
    )  # fmt: skip
    assert found.needed_gpus == 12
    assert "12 GPUs are needed (cluster.learners=4, cluster.engines=2 of 4)" in found.problems[0]


def test_a_colocated_run_shares_its_gpus_and_sends_within_them() -> None:
    found = plan(
        "7B", "8x80GB", "cluster.placement=colocated", "cluster.learners=8", "cluster.engines=8",
        "rollout.max_staleness=0",
    )  # fmt: skip
    assert found.needed_gpus == 8
    assert [cost.transport for cost in found.syncs] == ["ipc", "file"]
    wide = plan(
        "7B", "2x8x80GB", "cluster.placement=colocated", "cluster.learners=16", "cluster.engines=16",
        "rollout.max_staleness=0",
    )  # fmt: skip
    assert any("share the GPUs of one node and need 16, a node has 8" in problem for problem in wide.problems)


def test_a_broadcast_freezes_less_than_half_of_what_a_file_takes() -> None:
    nccl, file = plan("7B", "2x8x80GB", "cluster.learners=8", "cluster.engines=8").syncs
    assert (nccl.transport, file.transport) == ("nccl", "file")
    assert nccl.seconds < file.seconds / 10
    assert nccl.frozen_s <= file.frozen_s


def test_the_proof_fits_its_time_with_fewer_groups_for_larger_models() -> None:
    small = plan("1.5B", "2x80GB")
    slow = replace(parse_hardware("8x8x80GB"), rates=replace(parse_hardware("8x8x80GB").rates, network=2e9))
    recipe = recipe_with("cluster.learners=32", "cluster.engines=8", "rollout.engine_args={tensor_parallel_size: 4}")
    large = plan_cluster(recipe, setup_with(recipe, "70B"), slow, files_at_once=4)
    assert small.proof_groups == 48
    assert large.proof_groups < 8
    assert large.proof_s < 2 * 145  # a group and the load after it, of 142 s each: less is not possible


def test_hardware_is_read_and_nonsense_refused() -> None:
    assert parse_hardware("2x8x80GB") == Hardware(nodes=2, gpus_per_node=8, gpu_gb=80)
    for text in ("", "8", "0x80GB", "8 GPUs", "axbxc"):
        with pytest.raises(ConfigError, match="2x8x80GB"):
            parse_hardware(text)


def test_the_command_plans_for_a_cluster_without_a_gpu() -> None:
    vllm = ["rollout.engine=vllm", "cluster.backend=ray"]
    result = CliRunner().invoke(app, ["check", "tiny", *vllm, "--gpus", "4x80GB"])
    assert result.exit_code == 0, result.output
    assert "1x4x80GB, an estimate" in result.output
    assert "weight sync, nccl" in result.output


def test_a_recipe_without_engines_of_its_own_is_refused() -> None:
    result = CliRunner().invoke(app, ["check", "tiny", "--gpus", "4x80GB"])
    assert isinstance(result.exception, ConfigError)
    assert "rollout.engine=vllm" in str(result.exception)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ((), (WeightTransport.NCCL, 3 * 256 * MIB + 2 * HEAD, 2 * 256 * MIB + HEAD)),
        (COLOCATED, (WeightTransport.IPC, 2 * HEAD, HEAD)),
        ((*COLOCATED, "cluster.engines=2"), (WeightTransport.FILE, 0, 0)),  # an engine beyond the learner's GPU
        (("cluster.weight_transport=file",), (WeightTransport.FILE, 0, 0)),
        (("model.lora.rank=8", "model.lora.sends_alone=true"), (WeightTransport.FILE, 0, 0)),
    ],
)
def test_the_buffers_of_a_sync_are_those_of_its_transport(
    changes: tuple[str, ...], expected: tuple[WeightTransport, int, int]
) -> None:
    recipe = recipe_with(*changes)
    found = sync_buffers(recipe, largest=HEAD)
    assert (transport_of(recipe), found.learner, found.engine) == expected


def test_both_sides_hold_the_buffers_of_a_sync() -> None:
    adapters = ("model.lora.rank=8", "learner.micro_batch_tokens=64")  # little else comes and goes
    by_nccl = plan("7B", "2x80GB", *adapters).places
    by_file = plan("7B", "2x80GB", *adapters, "cluster.weight_transport=file").places
    for sent, loaded, size in zip(by_nccl, by_file, (3 * 256 * MIB + 2 * HEAD, 2 * 256 * MIB + HEAD), strict=True):
        assert {part.name: part.num_bytes for part in sent.parts}["weight buffers"] == size
        assert "weight buffers" not in {part.name for part in loaded.parts}
        assert sent.planned_bytes >= loaded.planned_bytes
    assert by_nccl[1].planned_bytes - by_file[1].planned_bytes == 2 * 256 * MIB + HEAD


def test_an_engine_that_leaves_no_room_for_the_buffers_says_how_to_make_it() -> None:
    full = plan("7B", "2x8x80GB", "cluster.learners=8", "rollout.engine_args={gpu_memory_utilization: 0.99}")
    (problem,) = full.problems
    assert "a weight sync needs 1.5 GiB (nccl: chunks of 256 MiB" in problem
    assert "0.8 GiB is left; lower rollout.engine_args.gpu_memory_utilization" in problem
    assert plan("7B", "2x8x80GB", "cluster.learners=8").fits
    by_file = plan("70B", "1x80GB", *COLOCATED, "cluster.weight_transport=file")
    assert not any("weight sync" in problem for problem in by_file.problems)
