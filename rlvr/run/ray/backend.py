"""The Ray backend: actors for learner, engines and verifiers, and their handles for the loop.

driver: loop, sampler, buffer, ledger, recorder
  |-- learner actor     the policy, the optimiser; publishes weights: files, or a broadcast (`transfer`)
  |-- engine actors     behind one EngineFleet, which acts as one engine
  `-- verifier actors   one per node, behind one VerifierFleet, which acts as one `VerifierService`
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

from rlvr.config.recipe import Placement, PluginEngine, Recipe
from rlvr.errors import ClusterLost, ConfigError
from rlvr.models.dtype_speed import DtypeSpeeds
from rlvr.models.policy import PolicyText
from rlvr.processes.supervised_fleet import OnEvent, Supervision
from rlvr.records import Check
from rlvr.registry import ENGINES, VERIFIERS, PluginSource, find
from rlvr.run.launch.backend import RunContext, Workers
from rlvr.run.launch.request import RunRequest
from rlvr.run.launch.run import run_recipe
from rlvr.run.ray.bundles import chosen_transport
from rlvr.run.ray.connect import connected
from rlvr.run.ray.nodes.handshake import shake_hands
from rlvr.run.ray.nodes.head_watch import HeadWatch
from rlvr.run.ray.nodes.hosts import Hosts, live_hosts
from rlvr.run.ray.nodes.node_endpoints import endpoints
from rlvr.run.ray.placement import Reserved
from rlvr.run.ray.transfer import Transfer
from rlvr.run.ray.watch import Sentinel, WaitBoard, end_process
from rlvr.run.ray.workers.engine_fleet import EngineFleet
from rlvr.run.ray.workers.engine_handle import engine_spawner
from rlvr.run.ray.workers.engine_member import number_of
from rlvr.run.ray.workers.learner_handle import LearnerHandle
from rlvr.run.ray.workers.verifier_fleet import VerifierFleet
from rlvr.run.ray.workers.verifier_handle import verifier_spawner
from rlvr.run.record.recorder import Recorder
from rlvr.run.record.telemetry import watch_pool
from rlvr.run.step.learner_thread import Hook
from rlvr.verification.service import VerifierService

logger = logging.getLogger(__name__)
RETRY_S = 2.0  # between two attempts to place an engine elsewhere


def train(request: RunRequest) -> None:
    """Runs a recipe to its end on a Ray cluster.

    Raises: RlvrError; Interrupted after a checkpoint when the user asked to stop.
    """
    run_dir = request.directory.path
    recipe, say = request.loaded.recipe, request.console.note
    with opened_backend(recipe, service=request.service, run_dir=run_dir, say=say) as backend:
        run_recipe(request, backend=backend)


@contextmanager
def opened_backend(
    recipe: Recipe, *, service: VerifierService, run_dir: Path, say: Callable[[str], None] = logger.warning
) -> Iterator["RayBackend"]:
    """Context with a connected cluster whose nodes run the same code as this one, and with reserved resources.

    Args: say: shows a line while the run waits for nodes, or for a model's download.
    """
    with ExitStack() as stack:
        board = WaitBoard()
        sentinel = Sentinel(board, end=end_process)
        stack.callback(sentinel.close)
        logs = run_dir / "faults" / "ray" if run_dir.name else None
        head = stack.enter_context(connected(recipe.cluster, logs=logs))
        stack.enter_context(endpoints())
        sources = verifier_sources(recipe)
        plugins = [source for name, source in sources.items() if source.module and name not in jailed_verifiers(recipe)]
        if isinstance(recipe.rollout.engine, PluginEngine):
            plugins.append(find(ENGINES, recipe.rollout.engine.name))
        modules = sorted({source.module for source in plugins})
        reserved = Reserved(recipe, say=say)  # before the check of the nodes, which may be coming only now
        stack.callback(reserved.close)
        check = partial(
            shake_hands,
            modules,
            with_vllm=recipe.rollout.engine.traits.takes_vllm_arguments,
            deadline_s=recipe.cluster.start_deadline_s,
        )
        known = check(say=say)
        if not reserved.nodes <= set(known):
            reserved.renew()
        hosts = Hosts(known, read=live_hosts, check=lambda node: check(only=[node]), note=say)
        backend = RayBackend(
            recipe,
            service=service,
            run_dir=run_dir,
            board=board,
            head=head,
            reserved=reserved,
            hosts=hosts,
            sources=sources,
            say=say,
        )
        stack.callback(backend.close)
        yield backend


def verifier_sources(recipe: Recipe) -> dict[str, PluginSource]:
    """The source of each verifier of the recipe, by name; a single file is sent as text, with its hash."""
    names = {
        check.verifier for source in (*recipe.data.train, *recipe.data.eval) for check in source.all_checks.values()
    }
    return {name: find(VERIFIERS, name) for name in sorted(names)}


def jailed_verifiers(recipe: Recipe) -> set[str]:
    """The names of verifiers that the recipe has jailed; no node imports their code outside a jail."""
    return {
        check.verifier
        for source in (*recipe.data.train, *recipe.data.eval)
        for check in source.all_checks.values()
        if check.is_jailed
    }


class RayBackend:
    """Starts the actors of a run, and restarts them after the learner is lost."""

    def __init__(
        self,
        recipe: Recipe,
        *,
        service: VerifierService,
        run_dir: Path,
        board: WaitBoard,
        head: HeadWatch,
        reserved: Reserved,
        hosts: Hosts,
        sources: dict[str, PluginSource],
        say: Callable[[str], None],
    ) -> None:
        self._recipe = recipe
        self._service = service
        self._run_dir = run_dir
        self._board = board
        self._head = head
        self._reserved = reserved
        self._hosts = hosts
        self._sources = sources
        self._say = say
        self._learner: LearnerHandle | None = None
        self._was_opened = False
        self._text: PolicyText | None = None
        self._transport = chosen_transport(recipe, reserved.plan)

    def open(self) -> PolicyText:
        """Starts the learner's actor, which loads the policy; replaces a lost one if resources allow."""
        with self._head.explains():
            return self._open()

    def _open(self) -> PolicyText:
        if self._was_opened:
            self.close()
            self._reserved.renew()
            self._transport = chosen_transport(self._recipe, self._reserved.plan)
        self._was_opened = True
        learner = LearnerHandle(
            self._recipe, options=self._reserved.learner_options(), far=self._reserved.far_bundles(), board=self._board
        )
        self._learner = learner
        learner.download(self._say)
        opened = learner.open(self._run_dir.resolve())
        if not opened.sees_run_dir:
            raise ConfigError(
                f"the learner ({opened.place}) does not see the run directory {self._run_dir.resolve()}: checkpoints "
                "need a file system that driver and learner share; choose such a --run-dir, or start the run there"
            )
        self._text = opened.text
        return opened.text

    def measure_dtypes(self) -> DtypeSpeeds:
        """Measures in the learner's process, on its device."""
        assert self._learner is not None  # `run_recipe` opens first
        return self._learner.measure_dtypes()

    def use(self, recipe: Recipe) -> None:
        """Sets the recipe used from now on."""
        self._recipe = recipe

    @asynccontextmanager
    async def workers(self, context: RunContext) -> AsyncIterator[Workers]:
        """Context in which all actors are running."""
        stopped = partial(context.recorder.event, "stopped", error=ClusterLost.__name__)
        self._head.record = lambda message: stopped(message=message)
        with self._head.explains():
            async with self._workers(context) as workers:
                yield workers

    @asynccontextmanager
    async def _workers(self, context: RunContext) -> AsyncIterator[Workers]:
        learner = self._learner
        assert learner is not None  # `run_recipe` opens first
        self._report_fewer_engines(context.recorder)
        if learner.opened is not None and learner.opened.rank_nodes:
            nodes = [learner.opened.address, *learner.opened.rank_nodes]
            ranks = [self._recipe.cluster.learners - sum(self._reserved.plan.far_ranks), *self._reserved.plan.far_ranks]
            context.recorder.event("learners_placed", nodes=nodes, learners=ranks)
        fleet = self.fleet(context.recorder.event)
        verifiers = self.verifiers(context.recorder.event)
        try:
            async with self._hosts.watched(context.recorder.event):  # from the start, which may take hours
                try:
                    await start_workers(
                        lambda: asyncio.to_thread(learner.start, context, transport=self._transport),
                        fleet=fleet,
                        verifiers=verifiers,
                        shares_devices=bool(self._reserved.plan.shared_devices),
                        hosts=self._hosts,
                    )
                except BaseException:
                    await asyncio.to_thread(self.close)  # else a cold start would continue and be waited for
                    raise
                yield Workers(
                    learner=learner,
                    set_correction=learner.set_correction,
                    engine=fleet,
                    verifier=verifiers,
                    before_training=self._engines_to_sleep(fleet),
                )
        finally:
            await asyncio.gather(fleet.close(), verifiers.close())

    def fleet(self, on_event: OnEvent) -> EngineFleet:
        """The recipe's engine fleet, not started yet."""
        assert self._learner is not None
        assert self._text is not None
        cluster = self._recipe.cluster
        num_engines = len(self._reserved.plan.engine_bundles)
        transfer = None
        if self._transport.is_sent:
            transfer = Transfer(
                self._learner.sender,
                transport=self._transport,
                width=self._recipe.rollout.gpus_per_engine,
                deadline_s=cluster.sync_deadline_s,
                on_event=on_event,
            )
        return EngineFleet(
            engine_spawner(
                self._recipe,
                text=self._text,
                source=self._learner.source,
                options_of=self._reserved.engine_options,
                transport=self._transport,
                devices_of=self._devices_of,
                board=self._board,
            ),
            num_engines=num_engines,
            num_absent=cluster.engines - num_engines,
            place=self._place,
            vacate=lambda name: self._reserved.release(number_of(name)),
            supervision=self._supervision(),
            sync_s=cluster.sync_deadline_s,
            loads_after_work=not self._recipe.rollout.engine.traits.loads_while_generating,
            transfer=transfer,
            on_event=on_event,
        )

    def verifiers(self, on_event: OnEvent) -> VerifierFleet:
        """The recipe's verifier fleet, not started yet."""
        cluster = self._recipe.cluster
        count = cluster.verifier_pools or len(self._hosts.usable)
        watch_pool("driver", self._service, num_workers=0)  # verdicts that need no worker
        return VerifierFleet(
            verifier_spawner(
                self._recipe,
                checks=self._checks(),
                sources={k: v for k, v in self._sources.items() if v.source},
                nodes=lambda: self._hosts.usable,
                board=self._board,
            ),
            nodes=lambda: self._hosts.usable,
            has_one_per_node=not cluster.verifier_pools,
            names=[f"verifier-{i}" for i in range(count)],
            here=self._service,
            supervision=self._supervision(),
            on_event=on_event,
        )

    async def _place(self, engine_id: str) -> None:
        """Waits until there are resources for an engine on a node that may be used."""
        number = number_of(engine_id)
        while not await self._hosts.admits(await self._reserved.place(number, avoid=self._hosts.unusable)):
            self._reserved.release(number)
            await asyncio.sleep(RETRY_S)

    def _devices_of(self, engine: int) -> tuple[str, ...]:
        """The GPUs of the learner that an engine shares, by Ray's ids."""
        assert self._learner is not None
        assert self._learner.opened is not None
        shared = self._reserved.plan.shared_devices
        return tuple(self._learner.opened.devices[position] for position in shared[engine]) if shared else ()

    def _supervision(self) -> Supervision:
        cluster = self._recipe.cluster
        return Supervision(
            start_s=cluster.start_deadline_s,
            heartbeat_s=min(5.0, cluster.heartbeat_deadline_s / 4),
            answer_s=cluster.heartbeat_deadline_s,
            max_restarts=cluster.max_engine_restarts,
        )

    def close(self) -> None:
        """Ends the learner's actor."""
        learner, self._learner = self._learner, None
        if learner is not None:
            learner.close()

    def _report_fewer_engines(self, recorder: Recorder) -> None:
        engines, wanted = len(self._reserved.plan.engine_bundles), self._recipe.cluster.engines
        if engines < wanted:
            recorder.remark(
                "fewer_engines",
                f"the remaining nodes hold {engines} of {wanted} engines; the run continues with these, and the others "
                "join when there are resources for them",
                engines=engines,
                wanted=wanted,
            )

    def _checks(self) -> list[Check]:
        """One check for each verifier and settings, so that verifiers are built before the first item."""
        return [
            Check(
                name=name,
                verifier=config.verifier,
                settings=config.settings,
                reference=None,
                role=config.role,
                weight=config.weight,
                execution=config.execution,
                python=config.python,
                readable=tuple(config.readable),
            )
            for source in (*self._recipe.data.train, *self._recipe.data.eval)
            for name, config in source.all_checks.items()
        ]

    def _engines_to_sleep(self, fleet: EngineFleet) -> Hook | None:
        """Sends engines that share the learner's devices to sleep; the fleet wakes them to load weights."""
        if self._recipe.cluster.placement is not Placement.COLOCATED:
            return None

        async def sleep() -> None:
            if not fleet.is_asleep:
                await fleet.sleep()

        return sleep


async def start_workers(
    start_learner: Callable[[], Awaitable[None]],
    *,
    fleet: EngineFleet,
    verifiers: VerifierFleet,
    shares_devices: bool,
    hosts: Hosts,
) -> None:
    """Starts everything at once; engines that share the learner's devices after it, one by one.

    An engine measures the free memory of its device when it starts, and keeps a share of it. What the learner, a
    restored checkpoint or another engine takes meanwhile would be counted wrongly.

    A fleet hears of changes of the nodes as soon as it has started, because a cold start of the learner takes longer.
    Engines that share the learner's devices do not: they cannot leave its node, and work until its time is over.
    """

    async def follow(part: EngineFleet | VerifierFleet) -> None:
        await part.start()
        hosts.follow(part)

    async def in_turn() -> None:
        await start_learner()
        await fleet.start(one_by_one=True)

    if shares_devices:
        await asyncio.gather(in_turn(), follow(verifiers))
    else:
        await asyncio.gather(start_learner(), follow(fleet), follow(verifiers))
