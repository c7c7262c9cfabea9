"""vLLM's scheduler with rlvr's rule for scored rows, without an engine: a loop in place of the model runner."""

import random
from collections import deque
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig

from rlvr.config.load import load_recipe
from rlvr.rollout.vllm.mapping import SCORE_PREFIX
from rlvr.rollout.vllm.settings import engine_arguments

pytest.importorskip("vllm")
NUM_ROWS = 4
BLOCK = 32  # tokens of a block of the key-value cache


class Runner:
    """What vLLM's GPU model runner (V2) keeps of requests: a slot each, from its first step to its end or preemption.

    On a CPU vLLM runs another one (V1), which gives up the slot of a request that sits out a step.
    """

    def __init__(self, scheduler: Any, *, num_in_flight: int) -> None:
        self.scheduler = scheduler
        self.slots: set[str] = set()
        self.most_slots = 0
        self.batches: list[set[str]] = []
        self._num_in_flight = num_in_flight
        self._in_flight: deque[Any] = deque()

    def step(self) -> None:
        """Schedules a batch and takes its slots; returns tokens once `num_in_flight` batches are under way."""
        output = self.scheduler.schedule()
        self.slots -= output.finished_req_ids
        self.slots -= output.preempted_req_ids or set()
        self.slots |= {new.req_id for new in output.scheduled_new_reqs}
        assert set(output.num_scheduled_tokens) <= self.slots
        self.most_slots = max(self.most_slots, len(self.slots))
        if output.num_scheduled_tokens:
            self.batches.append(set(output.num_scheduled_tokens))
        self._in_flight.append(output)
        if len(self._in_flight) == self._num_in_flight:
            self._return_tokens(self._in_flight.popleft())

    def _return_tokens(self, output: Any) -> None:
        from vllm.v1.outputs import ModelRunnerOutput

        names = list(output.num_scheduled_tokens)
        requests = self.scheduler.requests
        tokens = [[7] if name in requests and not requests[name].is_prefill_chunk else [] for name in names]
        self.scheduler.update_from_output(
            output,
            ModelRunnerOutput(
                req_ids=names, req_id_to_index={name: i for i, name in enumerate(names)}, sampled_token_ids=tokens
            ),
        )


def scheduler_of(folder: Path, *changes: str, num_blocks: int = 200) -> Any:
    """The scheduler that vLLM would make from rlvr's arguments, as it works with the GPU runner."""
    import torch
    from vllm.config import CacheConfig, ModelConfig, SchedulerConfig, VllmConfig
    from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
    from vllm.v1.structured_output import StructuredOutputManager

    architecture = LlamaConfig(
        vocab_size=320, hidden_size=128, num_hidden_layers=1, num_attention_heads=2, architectures=["LlamaForCausalLM"]
    )
    architecture.save_pretrained(folder)
    recipe = load_recipe(
        "tiny",
        [
            "rollout.engine=vllm",
            "cluster.backend=ray",
            "rollout.engine_dtype=bfloat16",
            f"rollout.max_batch_rows={NUM_ROWS}",
            *changes,
        ],
    ).recipe
    found = engine_arguments(recipe, architecture=architecture, max_positions=2048, is_cpu=True, memory_bytes=1 << 33)
    config = VllmConfig(
        model_config=ModelConfig(model=str(folder), skip_tokenizer_init=True, dtype="float32", max_model_len=256),
        cache_config=CacheConfig(block_size=BLOCK, enable_prefix_caching=False),
        scheduler_config=SchedulerConfig(
            max_model_len=256,
            is_encoder_decoder=False,
            max_num_seqs=found["max_num_seqs"],
            max_num_active_seqs=found.get("max_num_active_seqs"),
            max_num_batched_tokens=found["max_num_batched_tokens"],
            enable_chunked_prefill=False,
            async_scheduling=found["async_scheduling"],
            scheduler_cls=found["scheduler_cls"],
        ),
    )
    config.cache_config.num_gpu_blocks = num_blocks
    spec = FullAttentionSpec(block_size=BLOCK, num_kv_heads=1, head_size=1, dtype=torch.float32)
    scheduler_class: Any = config.scheduler_config.get_scheduler_cls()
    scheduler = scheduler_class(
        vllm_config=config,
        kv_cache_config=KVCacheConfig(
            num_blocks=num_blocks, kv_cache_tensors=[], kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)]
        ),
        structured_output_manager=StructuredOutputManager(config),
        block_size=BLOCK,
    )
    scheduler.use_v2_model_runner = True
    return scheduler


def request(name: str, *, prompt: int = 3, max_tokens: int = 8) -> Any:
    from vllm import SamplingParams
    from vllm.v1.request import Request

    is_scored = name.startswith(SCORE_PREFIX)
    return Request(
        name,
        list(range(prompt)),
        SamplingParams(
            max_tokens=1 if is_scored else max_tokens, prompt_logprobs=0 if is_scored else None, ignore_eos=True
        ),
        None,
    )


def test_a_scored_row_has_a_slot_even_if_generating_rows_fill_the_engine(tmp_path: Path):
    runner = Runner(scheduler := scheduler_of(tmp_path), num_in_flight=1)
    for i in range(NUM_ROWS + 2):  # more than it generates at once
        scheduler.add_request(request(f"row{i}"))
    runner.step()
    runner.step()
    scheduler.add_request(request(f"{SCORE_PREFIX}0"))
    runner.step()
    runner.step()
    rows = {f"row{i}" for i in range(NUM_ROWS)}
    assert runner.batches == [rows, rows, {f"{SCORE_PREFIX}0"}, rows]
    assert runner.most_slots == NUM_ROWS + 1 == scheduler.max_num_running_reqs


@pytest.mark.parametrize("is_ahead", [False, True])
@pytest.mark.parametrize("num_blocks", [200, 12])
def test_the_runners_slots_suffice_for_any_load(is_ahead: bool, num_blocks: int, tmp_path: Path):
    """Rows and scored rows at random times, with a cache that is large, or so small that rows are preempted."""
    change = f"rollout.engine_args.async_scheduling={str(is_ahead).lower()}"
    scheduler = scheduler_of(tmp_path, change, num_blocks=num_blocks)
    runner = Runner(scheduler, num_in_flight=2 if is_ahead else 1)
    draw = random.Random(0)
    names: set[str] = set()
    for step in range(3000):
        if step < 300 and draw.random() < 0.4:
            name = f"{SCORE_PREFIX if draw.random() < 0.5 else ''}{step}"
            names.add(name)
            scheduler.add_request(request(name, prompt=draw.randint(2, 100), max_tokens=draw.randint(1, 60)))
        runner.step()
        assert len(scheduler.running) <= scheduler.max_num_running_reqs
    assert not scheduler.has_unfinished_requests()
    assert set().union(*runner.batches) == names
    assert runner.most_slots == NUM_ROWS + 1 == scheduler.max_num_running_reqs
    for batch in runner.batches:
        assert len(batch) == 1 or not any(name.startswith(SCORE_PREFIX) for name in batch)
    assert max(len(batch) for batch in runner.batches) == NUM_ROWS
