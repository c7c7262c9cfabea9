"""Verifiers and engines in actors of a private Ray: hostile input, sudden death, joining, leaving, and the token."""

import asyncio
import contextlib
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from rlvr.config.recipe import Recipe
from rlvr.config.sections.cluster import ClusterConfig
from rlvr.models.policy import build_tiny
from rlvr.plugin import completion_from_text
from rlvr.protocols import GenerationRequest, Sampling
from rlvr.records import Check, Prompt, Status, Transport, WeightsKind, WeightsRef
from rlvr.verification.service import VerifierService
from tests.unit.verifiers.math.test_math_hostile import hostile

pytestmark = pytest.mark.cluster
ray = pytest.importorskip("ray")
from rlvr.processes.supervised_fleet import Supervision  # noqa: E402
from rlvr.run.ray.connect import connected  # noqa: E402 - needs ray
from rlvr.run.ray.watch import WaitBoard  # noqa: E402
from rlvr.run.ray.weight_files import WeightSource  # noqa: E402
from rlvr.run.ray.workers.engine_fleet import EngineFleet  # noqa: E402
from rlvr.run.ray.workers.engine_handle import engine_spawner  # noqa: E402
from rlvr.run.ray.workers.verifier_fleet import VerifierFleet  # noqa: E402
from rlvr.run.ray.workers.verifier_handle import verifier_spawner  # noqa: E402


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with connected(ClusterConfig()):
        yield


def recipe_of(check: str = "math", **changes: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "x",
            "model": {"tiny": {"layers": 1, "hidden_size": 16, "heads": 2, "characters": "0123456789"}},
            "data": {"train": [{"source": "x.jsonl", "verifier": check}]},
            "rollout": {"engine": "toy"},
            "cluster": {"backend": "ray", "cpus_per_engine": 0.1, "heartbeat_deadline_s": 20},
            **changes,
        }
    )


def judging(recipe: Recipe, check: Check, scenario: Callable[[VerifierFleet], Awaitable[Any]]) -> Any:
    """What the scenario returns, with one verifier actor behind the fleet."""
    here = VerifierService(workers=1, deadline_s=5.0)
    spawn = verifier_spawner(
        recipe,
        checks=[check],
        sources={},
        nodes=lambda: [node["NodeID"] for node in ray.nodes() if node["Alive"]],
        board=WaitBoard(),
    )

    async def whole() -> Any:
        fleet = VerifierFleet(
            spawn,
            names=["verifier-0"],
            here=here,
            supervision=Supervision(heartbeat_s=2.0, answer_s=20.0, max_restarts=3),
            on_event=lambda kind, **fields: events.append(kind),
        )
        await fleet.start()
        try:
            return await scenario(fleet), events
        finally:
            await fleet.close()

    events: list[str] = []
    try:
        return asyncio.run(whole())
    finally:
        here.close()


def test_hostile_completions_in_an_actor_are_all_answered_and_its_workers_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    rows = hostile(str(tmp_path / "canary"))
    assert len(rows) >= 120

    async def scenario(fleet: VerifierFleet) -> list[Status]:
        async def one(row: dict[str, Any]) -> Status:
            check = Check(name="m", verifier="math", reference=row["reference"])
            prompt = Prompt(prompt_id=str(row["id"]), text="?", source="s", checks=(check,))
            return (await fleet.verify(prompt, completion_from_text(row["completion"], prompt_id=str(row["id"]))))[
                "m"
            ].status

        return await asyncio.gather(*(one(row) for row in rows))

    recipe = recipe_of(reward={"verifier_workers": 2, "verifier_deadline_s": 5.0})
    statuses, events = judging(recipe, Check(name="m", verifier="math"), scenario)
    assert Status.ERROR not in statuses
    passed = [row["id"] for row, s in zip(rows, statuses, strict=True) if s is Status.PASS]
    assert passed == [f"right {number}" for number in range(20)]
    assert events == []
    assert not (tmp_path / "canary").exists()


def test_code_is_verified_in_a_sandbox_of_the_actor_even_after_the_actor_was_killed():
    reference = {"kind": "function", "entry_point": "f", "asserts": ["assert f(2) == 4"]}
    check = Check(name="c", verifier="code", reference=reference)
    prompt = Prompt(prompt_id="p", text="?", source="s", checks=(check,))
    answers = {
        "```python\ndef f(x):\n    return 2 * x\n```": Status.PASS,
        "```python\ndef f(x):\n    return x\n```": Status.FAIL,
        "```python\nimport os\nos._exit(0)\n```": Status.FAIL,
    }

    async def scenario(fleet: VerifierFleet) -> list[list[Status]]:
        rounds: list[list[Status]] = []
        for is_first in (True, False):
            asked = [
                asyncio.create_task(fleet.verify(prompt, completion_from_text(text, prompt_id="p"))) for text in answers
            ]
            if is_first:
                await asyncio.sleep(0.05)
                os.kill(int(fleet.places[0].rpartition(" ")[2]), signal.SIGKILL)
            rounds.append([v["c"].status for v in await asyncio.gather(*asked)])
        return rounds

    (rounds, events) = judging(recipe_of("code"), Check(name="c", verifier="code"), scenario)
    assert rounds == [list(answers.values())] * 2
    assert events == ["verifier_lost", "verifier_restarted"]


def test_all_ports_listen_on_the_loopback_interface_and_the_sockets_are_closed_to_others():
    @ray.remote
    class Actor:
        def pid(self) -> int:
            return os.getpid()

    actor = Actor.remote()
    ray.get(actor.pid.remote())
    me = psutil.Process()
    heard: dict[str, str] = {}
    for process in (me, *me.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            for connection in process.net_connections("inet"):
                if connection.status == psutil.CONN_LISTEN:
                    heard[f"{process.name()}:{connection.laddr.port}"] = connection.laddr.ip
    assert len(heard) >= 6  # driver, GCS, raylet twice, agents, the actor
    assert set(heard.values()) <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}, heard
    session = Path(ray._private.worker._global_node.get_session_dir_path())
    private = session.parents[1]
    assert private.name.startswith("rlvr-ray-")
    assert private.stat().st_mode & 0o077 == 0
    ray.kill(actor)


def requests_of(group: str, *, count: int, tokens: int) -> list[GenerationRequest]:
    return [
        GenerationRequest(
            request_id=f"{group}#{i}",
            prompt_id=group,
            prefix_token_ids=(5, 6),
            sample_index=i,
            seed=i,
            sampling=Sampling(temperature=1.0, max_tokens=tokens),
        )
        for i in range(count)
    ]


def test_an_engine_is_killed_mid_generation_another_joins_and_one_leaves():
    recipe = recipe_of()
    assert recipe.model.tiny is not None
    events: list[tuple[str, dict[str, Any]]] = []
    ref = WeightsRef(policy_version=4, kind=WeightsKind.FULL, transport=Transport.SHARED, uri="", dtype="float32")

    async def whole() -> None:
        spawn = engine_spawner(
            recipe,
            text=build_tiny(recipe.model.tiny, seed=0).text,  # type: ignore[arg-type] # asserted above
            source=WeightSource(actor=None, node_id=""),
            options_of=lambda _: {"num_cpus": 0},
            transport=Transport.SHARED,
            board=WaitBoard(),
        )
        fleet = EngineFleet(
            spawn,
            num_engines=2,
            supervision=Supervision(heartbeat_s=1.0, answer_s=20.0),
            on_event=lambda kind, **fields: events.append((kind, fields)),
        )

        async def ask(group: str, *, count: int) -> dict[str, tuple[int, ...]]:
            return {
                c.completion_id: c.token_ids async for c in fleet.generate(requests_of(group, count=count, tokens=400))
            }

        async with asyncio.timeout(300):
            await fleet.start()
            try:
                await fleet.load_weights(ref)
                calm = await ask("a", count=3000)
                victim = fleet.members[0]
                asked = [asyncio.create_task(ask(name, count=3000)) for name in ("a", "b")]
                await asyncio.sleep(0.2)
                os.kill(int(victim.remote.place.rpartition(" ")[2]), signal.SIGKILL)
                again, _ = await asyncio.gather(*asked)
                assert again == calm  # the same seeds, wherever they were done
                name = fleet.add()
                while {"engine_joined", "engine_restarted"} - {kind for kind, _ in events}:
                    await asyncio.sleep(0.1)
                await fleet.remove("engine-1")
                assert len(await ask("c", count=10)) == 10
                assert name in {member.name for member in fleet.members}
            finally:
                await fleet.close()

    asyncio.run(whole())
    kinds = [kind for kind, _ in events]
    assert sorted(kinds) == ["engine_joined", "engine_left", "engine_lost", "engine_restarted"]
    lost = next(fields for kind, fields in events if kind == "engine_lost")
    assert lost["requeued"] > 0


@pytest.mark.parametrize("mode", ["wrong token", "no token"])
def test_whoever_does_not_show_the_token_is_refused(mode: str):
    address = ray.get_runtime_context().gcs_address
    program = (
        "import sys\nfrom rlvr.config.sections.cluster import ClusterConfig\nfrom rlvr.errors import ConfigError\n"
        "from rlvr.run.ray.connect import connected\n"
        "try:\n    with connected(ClusterConfig(address=sys.argv[1])):\n        print('inside')\n"
        "except ConfigError as error:\n    print('refused:', error)\n"
    )
    changed = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH")}
    if mode == "wrong token":
        changed |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    done = subprocess.run(
        [sys.executable, "-c", program, address], env=changed, capture_output=True, text=True, timeout=60
    )
    assert "refused" in done.stdout, done.stdout + done.stderr
    assert "token is missing or incorrect" in done.stdout
