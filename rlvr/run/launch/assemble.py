"""Assembles the parts of a run from its recipe, engine and learner; the only module that knows them all."""

import math
from collections.abc import Mapping

from rlvr.algorithms.build import build_advantage, build_correction, build_kl
from rlvr.batch import Learner, ProvableLearner
from rlvr.config.recipe import Backend, Recipe
from rlvr.config.sections.algorithm import KlPlacement, ZeroVariance
from rlvr.data.order import PromptStream
from rlvr.errors import ConfigError
from rlvr.models.policy import PolicyText
from rlvr.models.prompting import encode_prompt
from rlvr.protocols import Sampling
from rlvr.records import Json
from rlvr.run.activity import Activity
from rlvr.run.launch.backend import RunContext, Workers
from rlvr.run.launch.preflight import OpenedData
from rlvr.run.monitor.alarms import AlarmWatch
from rlvr.run.monitor.governor import Governor, start_bounds
from rlvr.run.parts import Evaluator, RunParts, Schedule
from rlvr.run.record.recorder import Recorder
from rlvr.run.step.buffer import GroupBuffer
from rlvr.run.step.difficulty import SolveRates
from rlvr.run.step.evaluation import Evaluation, evaluate
from rlvr.run.step.learner_thread import LearnerThread
from rlvr.run.step.sampler import SamplingPlan, SingleTurnSampler
from rlvr.run.step.shaping import RewardShaping, signal_filter
from rlvr.run.step.update import KlInReward, Updater
from rlvr.run.weights.answers import Compared
from rlvr.run.weights.canary import Canary, build_canary
from rlvr.run.weights.proof import WeightProof

NUM_CANARY_PROMPTS = 16


def assemble(context: RunContext, workers: Workers, *, text: PolicyText, data: OpenedData) -> RunParts:
    """The parts of a run, restored from the context's checkpoint when it is resumed.

    The workers are already restored; everything else is restored here.
    """
    recipe, recorder, resumed = context.recipe, context.recorder, context.resumed
    engine, learner = workers.engine, workers.learner
    sampler = SingleTurnSampler(
        engine=engine,
        verifier=workers.verifier,
        tokenizer=text.tokenizer,
        reward=recipe.reward,
        run_seed=recipe.seed,
        completion_deadline_s=recipe.rollout.completion_deadline_s,
    )
    governor = Governor(
        recipe.algorithm.governor,
        correction=build_correction(recipe.algorithm.correction),
        max_staleness=recipe.rollout.max_staleness,
        bounds=start_bounds(recipe),
    )
    alarms = AlarmWatch(recorder.alarm, recorder.remark, after_steps=recipe.run.alarm_after_steps)
    solve_rates = _solve_rates(recipe, data.stream)
    if resumed is not None:
        data.stream.restore(resumed.state["stream"])
        governor.restore(resumed.state["governor"])
        if "alarms" in resumed.state:  # absent in checkpoints of versions without alarms
            alarms.restore(resumed.state["alarms"])
        workers.set_correction(governor.correction)
        if solve_rates is not None:
            solve_rates.restore(resumed.state["solve_rates"])
    shaping = RewardShaping.of(recipe.reward, max_completion_tokens=recipe.rollout.max_completion_tokens)
    buffer = _buffer(recipe, shaping=shaping, max_staleness=governor.max_staleness)
    thread = LearnerThread(before_training=workers.before_training)
    return RunParts(
        schedule=Schedule(
            first_step=resumed.step + 1 if resumed else 1,
            num_steps=recipe.run.steps,
            eval_every_steps=recipe.run.eval_every_steps,
            checkpoint_every_steps=recipe.run.checkpoint_every_steps,
        ),
        stream=data.stream,
        sampler=sampler,
        plan=training_plan(recipe),
        engine=engine,
        learner=learner,
        thread=thread,
        proof=_proof(recipe, workers, text=text, data=data, thread=thread, recorder=recorder),
        buffer=buffer,
        updater=_updater(
            recipe,
            text=text,
            learner=learner,
            buffer=buffer,
            shaping=shaping,
            thread=thread,
            activity=recorder.activity,
        ),
        governor=governor,
        alarms=alarms,
        set_correction=workers.set_correction,
        solve_rates=solve_rates,
        evaluate=_evaluator(recipe, sampler=sampler, data=data, activity=recorder.activity),
        recorder=recorder,
        stop=context.stop,
        max_error_rate=recipe.reward.max_error_rate,
    )


def training_plan(recipe: Recipe) -> SamplingPlan:
    """The recipe's sampling plan for a training group."""
    sampling = Sampling(
        temperature=recipe.rollout.temperature,
        max_tokens=recipe.rollout.max_completion_tokens,
        stop_strings=tuple(recipe.rollout.stop_strings),
        stop_token_ids=tuple(recipe.rollout.stop_token_ids),
    )
    return SamplingPlan(sampling=sampling, group_size=recipe.rollout.group_size)


def _buffer(recipe: Recipe, *, shaping: RewardShaping, max_staleness: int) -> GroupBuffer:
    dynamic = recipe.algorithm.dynamic_sampling
    prompts = recipe.rollout.prompts_per_step
    return GroupBuffer(
        prompts_per_step=prompts,
        screen=signal_filter(
            min_judged=recipe.algorithm.advantage.min_judged, shaping=shaping, is_signal_needed=dynamic.enabled
        ),
        max_refills=math.floor(dynamic.max_refill_factor * prompts) if dynamic.enabled else 0,
        max_staleness=max_staleness,
    )


def _updater(
    recipe: Recipe,
    *,
    text: PolicyText,
    learner: Learner,
    buffer: GroupBuffer,
    shaping: RewardShaping,
    thread: LearnerThread,
    activity: Activity,
) -> Updater:
    algorithm = recipe.algorithm
    kl_in_reward = None
    if algorithm.kl_coef > 0 and algorithm.kl_placement is KlPlacement.REWARD:
        kl_in_reward = KlInReward(coef=algorithm.kl_coef, estimator=build_kl(algorithm.kl_estimator))
    return Updater(
        buffer=buffer,
        learner=learner,
        thread=thread,
        advantage=build_advantage(algorithm.advantage),
        shaping=shaping,
        kl_in_reward=kl_in_reward,
        drops_zero_variance=algorithm.zero_variance is ZeroVariance.DROP,
        pad_token_id=text.pad_token_id,
        is_streaming=recipe.learner.streaming,
        may_overlap=not recipe.rollout.shares_tensors,
        activity=activity,
    )


def _proof(
    recipe: Recipe, workers: Workers, *, text: PolicyText, data: OpenedData, thread: LearnerThread, recorder: Recorder
) -> WeightProof | None:
    """The proof of every sync; None where engines read the learner's tensors or have no weights."""
    if not recipe.rollout.has_copy:
        return None
    learner = workers.learner
    if not isinstance(learner, ProvableLearner):
        raise ConfigError(
            f"a {type(learner).__name__} cannot prove that weights arrive: it must implement rlvr.batch.ProvableLearner"
        )

    def record(kind: str, line: str, fields: Mapping[str, Json]) -> None:
        if line:
            recorder.remark(kind, line, **fields)
        else:
            recorder.event(kind, **fields)

    canary = _canary(recipe, text=text, stream=data.stream)
    return WeightProof(
        Compared(
            config=recipe.proof, canary=canary, learner=learner, engine=workers.engine, thread=thread, record=record
        )
    )


def _canary(recipe: Recipe, *, text: PolicyText, stream: PromptStream) -> Canary:
    """Rows from the recipe's prompts and the policy's vocabulary."""
    room = recipe.data.max_prompt_tokens + recipe.rollout.max_completion_tokens
    source = stream.sources[0]
    count = NUM_CANARY_PROMPTS if source.num_rows is None else source.num_rows
    prompts = [source.prompt(index) for index in range(min(count, NUM_CANARY_PROMPTS))]
    special = set(text.tokenizer.all_special_ids)
    is_in_process = recipe.cluster.backend is Backend.LOCAL
    return build_canary(
        [encode_prompt(prompt, text.tokenizer) for prompt in prompts],
        vocabulary=[token for token in range(len(text.tokenizer)) if token not in special],
        num_tokens=-(-recipe.proof.canary_tokens // (4 if is_in_process else 1)),
        max_row_tokens=min(room, text.max_positions) - 1,
        seed=recipe.seed,
    )


def _solve_rates(recipe: Recipe, stream: PromptStream) -> SolveRates | None:
    """Solve rates that filter the stream's draws; None when data.difficulty is off."""
    config = recipe.data.difficulty
    if not config.prefer_signal and config.retire_solve_rate == 0.0:
        return None
    finite = [source.name for source in stream.sources if source.num_rows is not None]
    rates = SolveRates(config, sources=finite, run_seed=recipe.seed)
    stream.choose_by(rates.choose)
    return rates


def _evaluator(recipe: Recipe, *, sampler: SingleTurnSampler, data: OpenedData, activity: Activity) -> Evaluator:
    """Evaluates every set: in full, or on its first `eval_prompts_between`."""

    async def run(step: int, policy_version: int, *, in_full: bool) -> list[Evaluation]:
        between = 0 if in_full else recipe.run.eval_prompts_between
        return [
            await evaluate(
                name,
                prompts[: between or len(prompts)],
                sampler=sampler,
                max_completion_tokens=recipe.rollout.max_completion_tokens,
                stop_strings=recipe.rollout.stop_strings,
                stop_token_ids=recipe.rollout.stop_token_ids,
                policy_version=policy_version,
                activity=activity,
            )
            for name, prompts in data.evals.items()
        ]

    return run
