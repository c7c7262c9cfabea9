"""Bundles for the actors of a recipe, and the arithmetic of a cluster that is too small."""

from typing import Any

import pytest

from rlvr.config.recipe import Recipe

pytest.importorskip("ray")
from rlvr.errors import ConfigError
from rlvr.records import Transport
from rlvr.run.ray.placement import chosen_transport, engine_width, plan_bundles, shortage
from rlvr.transfer.communicator import SUBSTITUTE_VARIABLE


def recipe(*, engine: str = "vllm", args: dict[str, Any] | None = None, **cluster: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "x",
            "model": {"tiny": {}},
            "data": {"train": [{"source": "x.jsonl", "verifier": "text_match"}]},
            "rollout": {"engine": engine, "engine_args": args or {}},
            "cluster": {"backend": "ray", **cluster},
        }
    )


def lack(subject: Recipe, *nodes: dict[str, float]) -> str:
    plan = plan_bundles(subject, num_gpus=int(sum(node.get("GPU", 0) for node in nodes)))
    cluster = subject.cluster
    return shortage(plan, nodes=nodes, engines=cluster.engines, cpus_per_engine=cluster.cpus_per_engine)


def test_without_devices_everything_is_counted_in_cores():
    plan = plan_bundles(recipe(engines=2, cpus_per_engine=0.5), num_gpus=0)
    assert plan.bundles == ({"CPU": 1.0}, {"CPU": 0.5}, {"CPU": 0.5})
    assert (plan.learner_bundle, plan.engine_bundles) == (0, (1, 2))
    assert plan.engine_gpus == plan.learner_gpus == 0


def test_each_engine_gets_as_many_devices_as_it_is_spread_over():
    args = {"tensor_parallel_size": 2}
    plan = plan_bundles(recipe(engines=3, learners=2, args=args), num_gpus=8)
    assert plan.bundles == ({"CPU": 1.0, "GPU": 2.0}, *([{"CPU": 1.0, "GPU": 2.0}] * 3))
    assert (plan.learner_gpus, plan.engine_gpus) == (2, 2)


def test_colocated_engines_share_the_learners_devices_in_one_bundle():
    plan = plan_bundles(recipe(engines=2, learners=2, placement="colocated"), num_gpus=2)
    assert plan.bundles == ({"CPU": 3.0, "GPU": 2.0},)
    assert plan.engine_bundles == (0, 0)
    assert (plan.learner_gpus, plan.engine_gpus) == (0, 1)


def test_a_toy_engine_takes_no_device():
    plan = plan_bundles(recipe(engine="toy"), num_gpus=1)
    assert plan.bundles == ({"CPU": 1.0, "GPU": 1.0}, {"CPU": 1.0})


def test_the_shortage_is_told_with_the_sum_and_the_keys_to_change():
    said = lack(recipe(engines=6), {"CPU": 4.0})
    assert said == (
        "7 CPUs are needed (learner 1 + 6 engines x 1), the cluster has 4; "
        "lower cluster.engines or cluster.cpus_per_engine"
    )
    assert lack(recipe(engines=3), {"CPU": 2.0}, {"CPU": 2.0}) == ""


def test_devices_in_total_are_not_enough_when_no_node_holds_one_actor():
    said = lack(recipe(args={"tensor_parallel_size": 4}), *[{"CPU": 64.0, "GPU": 2.0}] * 4)
    assert said == "one actor needs 4 GPUs on one node, the largest node has 2"


@pytest.mark.parametrize(
    ("num_gpus", "cluster", "expected"),
    [
        (0, {}, Transport.FILE),
        (2, {}, Transport.NCCL),
        (2, {"weight_transport": "file"}, Transport.FILE),
        (1, {"placement": "colocated"}, Transport.IPC),
        (4, {"placement": "colocated", "engines": 4}, Transport.FILE),  # the learner is on one GPU
        (4, {"placement": "colocated", "engines": 4, "learners": 4}, Transport.IPC),
    ],
)
def test_weights_take_the_fastest_way_that_the_placement_allows(
    num_gpus: int, cluster: dict[str, Any], expected: Transport
):
    subject = recipe(**cluster)
    assert chosen_transport(subject, plan_bundles(subject, num_gpus=num_gpus)) is expected


def test_other_engines_load_files_and_those_without_weights_get_none():
    for engine, expected in (("transformers", Transport.FILE), ("toy", Transport.SHARED)):
        subject = recipe(engine=engine)
        assert chosen_transport(subject, plan_bundles(subject, num_gpus=2)) is expected


def test_a_broadcast_without_gpus_is_refused_unless_a_test_replaces_nccl(monkeypatch: pytest.MonkeyPatch):
    subject = recipe(weight_transport="nccl")
    plan = plan_bundles(subject, num_gpus=0)
    monkeypatch.delenv(SUBSTITUTE_VARIABLE, raising=False)
    with pytest.raises(ConfigError, match=r"cluster\.weight_transport=nccl needs learner and engines on GPUs"):
        chosen_transport(subject, plan)
    monkeypatch.setenv(SUBSTITUTE_VARIABLE, "some.module:function")
    assert chosen_transport(subject, plan) is Transport.NCCL


def test_every_worker_of_an_engine_is_a_rank():
    assert engine_width(recipe()) == 1
    assert engine_width(recipe(args={"tensor_parallel_size": 4, "pipeline_parallel_size": 2})) == 8
