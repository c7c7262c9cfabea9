"""Bundles for the actors of a recipe, and the arithmetic of a cluster that is too small."""

from typing import Any

import pytest

from rlvr.config.recipe import Recipe

pytest.importorskip("ray")
from rlvr.errors import ConfigError
from rlvr.records import Transport
from rlvr.run.ray.bundles import begun_at, chosen_transport, learner_shares, plan_bundles, shortage, unreserved
from rlvr.run.ray.placement import wait_for_nodes
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
    gpus = [int(node.get("GPU", 0)) for node in nodes]
    plan = plan_bundles(subject, num_gpus=sum(gpus), gpus_per_node=max(gpus))
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


def test_the_stages_of_a_pipeline_count_as_devices_of_an_engine():
    args = {"tensor_parallel_size": 2, "pipeline_parallel_size": 2}
    plan = plan_bundles(recipe(engines=2, args=args), num_gpus=9)
    assert plan.bundles == ({"CPU": 1.0, "GPU": 1.0}, *([{"CPU": 1.0, "GPU": 4.0}] * 2))
    assert plan.engine_gpus == 4


def test_colocated_engines_share_the_learners_devices_in_one_bundle():
    plan = plan_bundles(recipe(engines=2, learners=2, placement="colocated"), num_gpus=2)
    assert plan.bundles == ({"CPU": 3.0, "GPU": 2.0},)
    assert plan.engine_bundles == (0, 0)


def test_ray_assigns_shared_devices_to_the_learner_which_passes_each_engine_its_own():
    args = {"tensor_parallel_size": 2}
    plan = plan_bundles(recipe(engines=2, learners=2, placement="colocated", args=args), num_gpus=8)
    assert (plan.learner_gpus, plan.engine_gpus) == (4, 0)
    assert plan.shared_devices == ((0, 1), (2, 3))
    apart = plan_bundles(recipe(engines=2, learners=2, args=args), num_gpus=8)
    assert apart.shared_devices == ()


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


def test_devices_in_total_are_not_enough_when_no_node_holds_one_engine():
    said = lack(recipe(args={"tensor_parallel_size": 4}), *[{"CPU": 64.0, "GPU": 2.0}] * 4)
    assert said == (
        "an engine cannot span nodes and needs 4 GPUs, the largest node has 2; "
        "lower cluster.engines, cluster.learners, tensor_parallel_size or pipeline_parallel_size"
    )


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
    assert recipe().rollout.gpus_per_engine == 1
    assert recipe(args={"tensor_parallel_size": 4, "pipeline_parallel_size": 2}).rollout.gpus_per_engine == 8


def test_learners_of_which_no_node_holds_all_get_a_bundle_on_each_of_several_nodes():
    plan = plan_bundles(recipe(learners=12, engines=2), num_gpus=16, gpus_per_node=8)
    learners, engine = {"CPU": 1.0, "GPU": 6.0}, {"CPU": 1.0, "GPU": 1.0}
    assert plan.bundles == (learners, learners, engine, engine)
    assert (plan.learner_bundle, plan.learner_gpus) == (0, 6)
    assert (plan.far_bundles, plan.far_ranks) == ((1,), (6,))
    assert plan.engine_bundles == (2, 3)


def test_the_first_learners_run_where_the_driver_is_if_such_a_bundle_was_placed_there():
    plan = plan_bundles(recipe(learners=17, engines=1), num_gpus=24, gpus_per_node=8)  # 6, 6 and 5 learners
    assert begun_at(plan, [0, 3]) == plan
    here = begun_at(plan, [1, 3])
    assert (here.learner_bundle, here.far_bundles, here.far_ranks) == (1, (0, 2), (6, 5))
    for elsewhere in ([], [2], [3]):  # with five GPUs, an engine's
        assert begun_at(plan, elsewhere) == plan


def test_learners_stay_together_if_a_node_holds_them_and_are_spread_evenly_otherwise():
    cluster = recipe(learners=8).cluster
    assert learner_shares(cluster, gpus_per_node=8) == (8,)
    assert learner_shares(cluster, gpus_per_node=7) == (4, 4)
    assert learner_shares(cluster, gpus_per_node=3) == (3, 3, 2)
    assert learner_shares(cluster, gpus_per_node=0) == (8,)  # on CPU cores, or before any node has come
    few = recipe(learners=8, learners_per_node=2).cluster
    assert learner_shares(few, gpus_per_node=8) == learner_shares(few, gpus_per_node=0) == (2, 2, 2, 2)


def test_more_learners_on_a_node_than_it_has_devices_are_refused():
    said = lack(recipe(learners=4, learners_per_node=4), *[{"CPU": 64.0, "GPU": 2.0}] * 4)
    assert said.startswith(
        "the learners that are to run on one node (cluster.learners_per_node) need 4 GPUs, the largest node has 2;"
    )
    said = lack(recipe(learners=8), *[{"CPU": 64.0, "GPU": 2.0}] * 4)
    assert said.startswith("9 GPUs are needed (learner 2 + 2 + 2 + 2 + 1 engines x 1), the cluster has 8;")


def test_a_reservation_that_fails_is_blamed_on_others_only_when_they_hold_something():
    plan = plan_bundles(recipe(engines=2, cpus_per_engine=1.5), num_gpus=0)
    nodes = [{"CPU": 2.0}, {"CPU": 2.0}]
    assert unreserved(plan, nodes=nodes, free={"CPU": 1.0}) == "other jobs hold the rest (free now: 1 CPUs)"
    assert unreserved(plan, nodes=nodes, free={"CPU": 4.0}) == (
        "each of these needs to be on one node, and the nodes have 2 CPUs and 0 GPUs, 2 CPUs and 0 GPUs "
        "(free now: 4 CPUs)"
    )


class Growing:
    """A cluster whose autoscaler adds a node at each of the given seconds; its clock moves only while it is waited."""

    def __init__(self, subject: Recipe, *, joins: dict[float, dict[str, float]], first: dict[str, float]) -> None:
        self._subject = subject
        self._joins = joins
        self._first = first
        self.now = 100.0
        self.lines: list[str] = []

    def nodes(self) -> list[dict[str, float]]:
        return [self._first, *(node for at, node in self._joins.items() if self.now - 100.0 >= at)]

    def is_reserved(self, seconds: float) -> bool:
        self.now += seconds
        return False

    def wait(self, limit_s: float) -> str:
        plan = plan_bundles(self._subject, num_gpus=8)
        cluster = self._subject.cluster
        return wait_for_nodes(
            lambda: shortage(
                plan, nodes=self.nodes(), engines=cluster.engines, cpus_per_engine=cluster.cpus_per_engine
            ),
            nodes=self.nodes,
            is_reserved=self.is_reserved,
            limit_s=limit_s,
            say=self.lines.append,
            clock=lambda: self.now,
        )


def test_a_run_waits_until_an_autoscaler_has_added_the_missing_nodes():
    node = {"CPU": 16.0, "GPU": 2.0}
    cluster = Growing(recipe(engines=3), joins={40.0: node, 90.0: node}, first={"CPU": 4.0})
    assert cluster.wait(600.0) == ""
    assert cluster.now - 100.0 == 90.0
    first, *others = cluster.lines
    assert first.startswith("waiting for nodes, 0 of cluster.wait_for_nodes_s=600 s: 4 GPUs are needed (learner 1 + 3")
    assert first.endswith("(now 1 node: 4 CPUs, 0 GPUs)")
    assert [line.split()[3] for line in others] == ["30", "40", "70"]  # every half minute, and when a node joins
    assert others[1].endswith("(now 2 nodes: 20 CPUs, 2 GPUs)")


def test_after_the_limit_the_run_says_what_is_still_missing():
    cluster = Growing(recipe(engines=3), joins={40.0: {"CPU": 16.0, "GPU": 2.0}}, first={"CPU": 4.0})
    assert cluster.wait(60.0).startswith("4 GPUs are needed (learner 1 + 3 engines x 1), the cluster has 2;")
    assert cluster.now - 100.0 == 60.0
