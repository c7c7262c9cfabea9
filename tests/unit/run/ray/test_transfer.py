"""The driver's side of a broadcast: groups, failures, and files for those who come alone; engines are simulated."""

import asyncio
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from rlvr.errors import RolloutError, TransferError
from rlvr.processes.supervised_fleet import Supervision
from rlvr.protocols import LoadReceipt
from rlvr.records import TensorEntry, Transport, WeightsRef
from rlvr.run.ray.transfer import Transfer
from rlvr.run.ray.workers.engine_fleet import EngineFleet
from rlvr.run.ray.workers.engine_member import EngineLost
from rlvr.run.step.failures import LearnerLost
from rlvr.transfer.rendezvous import Rendezvous
from tests.unit.run.ray.fleets.fleet_engines import CHECKSUM, SimulatedEngine, weights


def announced(version: int) -> WeightsRef:
    """A reference to weights that are sent."""
    entry = TensorEntry(name="w", shape=(1,), checksum=None)
    return dataclasses.replace(weights(version), transport=Transport.NCCL, uri="memory:learner", manifest=(entry,))


class SimulatedLearner:
    """A learner that sends. fails: the next sends end so. holds: the version of which it can write a file."""

    address = "10.0.0.1"

    def __init__(self) -> None:
        self.groups: list[Rendezvous] = []
        self.sent: list[int] = []
        self.files: list[int] = []
        self.fails: list[Exception] = []
        self.holds: int | None = None
        self._port = 1000

    async def meet(self) -> int:
        self._port += 1
        return self._port

    async def join(self, rendezvous: Rendezvous) -> None:
        self.groups.append(rendezvous)

    async def send(self, ref: WeightsRef) -> WeightsRef:
        await asyncio.sleep(0)
        if self.fails:
            raise self.fails.pop(0)
        self.sent.append(ref.policy_version)
        return dataclasses.replace(ref, manifest=weights(ref.policy_version).manifest)

    async def leave(self) -> None: ...

    async def write_file(self, ref: WeightsRef) -> WeightsRef | None:
        if self.holds is not None and self.holds != ref.policy_version:
            return None
        self.files.append(ref.policy_version)
        return weights(ref.policy_version)


class Joining(SimulatedEngine):
    """An engine that joins. join_fails, load_fails: the next ones end so; loaded: (version, transport) of each load."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.joined: list[tuple[int, int, int]] = []  # port, first rank, size
        self.join_fails: list[Exception] = []
        self.load_fails: list[Exception] = []
        self.loaded: list[tuple[int, Transport]] = []

    async def join(self, rendezvous: Rendezvous, *, first_rank: int) -> None:
        if self.join_fails:
            raise self.join_fails.pop(0)
        self.joined.append((rendezvous.port, first_rank, rendezvous.size))

    async def load_weights(self, ref: WeightsRef, *, canary: Sequence[Sequence[int]] = ()) -> LoadReceipt:
        if self.load_fails:
            raise self.load_fails.pop(0)
        self.loaded.append((ref.policy_version, ref.transport))
        return await super().load_weights(ref, canary=canary)


class Fleet:
    """A fleet of `count` engines with a learner, its events, and every engine that was ever started, by name."""

    def __init__(self, count: int, *, width: int = 1) -> None:
        self.learner = SimulatedLearner()
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.engines: dict[str, list[Joining]] = {}
        self.transfer = Transfer(
            self.learner, transport=Transport.NCCL, width=width, deadline_s=1.0, on_event=self._note
        )
        self.fleet = EngineFleet(
            self._spawn,
            num_engines=count,
            supervision=Supervision(heartbeat_s=60.0),
            sync_s=1.0,
            loads_after_work=False,
            transfer=self.transfer,
            on_event=self._note,
        )

    async def __aenter__(self) -> "Fleet":
        await self.fleet.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.fleet.close()

    def engine(self, number: int) -> Joining:
        return self.engines[f"engine-{number}"][-1]

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        return [fields for name, fields in self.events if name == kind]

    async def _spawn(self, name: str) -> Joining:
        engine = Joining(name)
        self.engines.setdefault(name, []).append(engine)
        return engine

    def _note(self, kind: str, **fields: Any) -> None:
        self.events.append((kind, fields))


def test_one_group_serves_several_syncs_and_each_worker_has_a_rank():
    async def work() -> None:
        async with Fleet(2, width=2) as it:
            for version in (0, 1):
                receipt = await it.fleet.load_weights(announced(version))
                assert receipt.sent is not None
                assert receipt.sent.manifest[0].checksum == CHECKSUM
            assert it.learner.sent == [0, 1]
            (group,) = it.learner.groups
            assert group.names == ("the learner", "engine-0", "engine-0", "engine-1", "engine-1")
            assert [it.engine(number).joined for number in (0, 1)] == [[(1001, 1, 5)], [(1001, 3, 5)]]

    asyncio.run(work())


def test_an_engine_that_joins_or_leaves_makes_a_new_group():
    async def work() -> None:
        async with Fleet(1) as it:
            await it.fleet.load_weights(announced(0))
            name = it.fleet.add()
            while not it.of_kind("engine_joined"):
                await asyncio.sleep(0.01)
            assert it.engines[name][0].loaded == [(0, Transport.FILE)]
            await it.fleet.load_weights(announced(1))
            await it.fleet.remove("engine-0")
            await it.fleet.load_weights(announced(2))
            assert [len(group.names) for group in it.learner.groups] == [2, 3, 2]
            assert len({group.port for group in it.learner.groups}) == 3
            assert len({group.token for group in it.learner.groups}) == 3
            assert it.engines[name][0].loaded[1:] == [(1, Transport.NCCL), (2, Transport.NCCL)]

    asyncio.run(work())


def test_after_a_loss_the_others_are_sent_the_weights_again_in_a_new_group():
    async def work() -> None:
        async with Fleet(2) as it:
            await it.fleet.load_weights(announced(0))
            it.engine(1).load_fails = [EngineLost("it was killed")]
            it.engine(0).load_fails = [TransferError("the arrival of the weights did not end within 1 s")]
            it.learner.fails = [TransferError("the broadcast of the weights did not end within 1 s")]
            receipt = await it.fleet.load_weights(announced(1))
            assert [one.engine_id for one in receipt.each][:1] == ["engine-0"]
            assert it.engine(0).loaded == [(0, Transport.NCCL), (1, Transport.NCCL)]
            assert [fields["engine"] for fields in it.of_kind("engine_lost")] == ["engine-1"]
            (failed,) = it.of_kind("transfer_failed")
            assert "did not end within 1 s" in failed["reason"]
            while not it.of_kind("engine_restarted"):
                await asyncio.sleep(0.01)
            assert it.engine(1).loaded[0][0] == 1
            await it.fleet.load_weights(announced(2))
            assert it.learner.groups[-1].size == 3

    asyncio.run(work())


def test_an_engine_that_is_found_dead_while_it_loads_does_not_hold_the_others_up():
    """vLLM never answers a call whose core was killed; the fleet's check of its health finds that out."""

    class Deaf(Joining):
        async def load_weights(self, ref: WeightsRef, *, canary: Sequence[Sequence[int]] = ()) -> LoadReceipt:
            await asyncio.Event().wait()
            raise AssertionError

    async def work() -> None:
        it = Fleet(2)

        async def spawn(name: str) -> Joining:
            it.engines.setdefault(name, []).append((Deaf if name == "engine-1" else Joining)(name))
            return it.engines[name][-1]

        it.fleet._spawn = spawn
        async with it:
            (deaf,) = (member for member in it.fleet.members if member.name == "engine-1")
            loading = asyncio.create_task(it.fleet.load_weights(announced(0)))
            await asyncio.sleep(0.1)
            it.fleet._lost(deaf, EngineLost("its core is gone"))
            receipt = await asyncio.wait_for(loading, 3.0)
            assert [one.engine_id for one in receipt.each] == ["engine-0"]

    asyncio.run(work())


def test_a_second_failure_changes_to_files_for_good():
    async def work() -> None:
        async with Fleet(1) as it:
            await it.fleet.load_weights(announced(0))
            it.learner.fails = [TransferError("no route"), TransferError("no route")]
            for version in (1, 2):
                receipt = await it.fleet.load_weights(announced(version))
                assert receipt.sent is not None
                assert receipt.sent.transport is Transport.FILE
            assert [reason["reason"] for reason in it.of_kind("transfer_given_up")] == ["no route"]
            assert it.engine(0).loaded[-2:] == [(1, Transport.FILE), (2, Transport.FILE)]
            assert it.of_kind("engine_lost") == []

    asyncio.run(work())


def test_a_transport_that_never_worked_is_an_error_that_says_what_to_set():
    async def work() -> None:
        async with Fleet(1) as it:
            it.engine(0).join_fails = [TransferError("the communicator carries nothing")] * 2
            with pytest.raises(RolloutError, match=r"carries nothing\. Set cluster\.weight_transport=file"):
                await it.fleet.load_weights(announced(0))

    asyncio.run(work())


def test_an_engine_that_cannot_join_is_lost_and_the_others_continue():
    async def work() -> None:
        async with Fleet(2) as it:
            it.engine(0).join_fails = [EngineLost("it was killed")]
            await it.fleet.load_weights(announced(0))
            assert [fields["engine"] for fields in it.of_kind("engine_lost")] == ["engine-0"]
            assert it.engine(1).loaded == [(0, Transport.NCCL)]

    asyncio.run(work())


def test_an_engine_that_restarts_when_the_learner_has_moved_on_waits_for_the_next_weights():
    async def work() -> None:
        async with Fleet(1) as it:
            await it.fleet.load_weights(announced(0))
            it.learner.holds = 1
            it.fleet._lost(it.fleet.members[0], EngineLost("it was killed"))
            while len(it.engines["engine-0"]) < 2 or it.fleet._starting:
                await asyncio.sleep(0.01)
            assert it.learner.files == []
            assert not (await it.fleet.health()).is_healthy
            await it.fleet.load_weights(announced(1))
            assert it.engine(0).loaded == [(1, Transport.NCCL)]
            assert (await it.fleet.health()).is_healthy

    asyncio.run(work())


def test_a_learner_that_is_lost_while_it_sends_costs_no_engine():
    async def work() -> None:
        async with Fleet(2) as it:
            it.learner.fails = [LearnerLost("its process is gone")]
            with pytest.raises(LearnerLost):
                await it.fleet.load_weights(announced(0))
            assert it.of_kind("engine_lost") == []

    asyncio.run(work())


def test_bytes_that_differ_from_what_was_sent_lose_the_engine():
    class Corrupt(Joining):
        async def load_weights(self, ref: WeightsRef, *, canary: Sequence[Sequence[int]] = ()) -> LoadReceipt:
            receipt = await super().load_weights(ref, canary=canary)
            return dataclasses.replace(receipt, checksums={"w": CHECKSUM + (ref.transport is Transport.NCCL)})

    async def work() -> None:
        it = Fleet(1)

        async def spawn(name: str) -> Joining:
            it.engines.setdefault(name, []).append(Corrupt(name))
            return it.engine(0)

        it.fleet._spawn = spawn
        async with it:
            await it.fleet.load_weights(announced(0))
            assert "1 of 1 tensors differ from what was sent" in it.of_kind("engine_lost")[0]["reason"]

    asyncio.run(work())
