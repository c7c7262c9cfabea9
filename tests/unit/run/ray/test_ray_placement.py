"""Bundles for the actors of a recipe, and the arithmetic of a cluster that is too small."""

from typing import Any

import pytest

from rlvr.config.recipe import Recipe

pytest.importorskip("ray")
from rlvr.run.ray.placement import plan_bundles, shortage


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
