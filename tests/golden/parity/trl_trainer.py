"""TRL's own trainer around a tiny float64 Llama, fed with completions that were made up."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import MethodType, SimpleNamespace
from typing import Any

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer
from trl.trainer.utils import add_fused_lm_head, split_tensor_dict

from tests.parity.rows import Row

PAD, EOS, VOCAB = 0, 1, 32
Scores = Sequence[float | None]


def tiny_llama(seed: int) -> LlamaForCausalLM:
    """Two layers, width 16, float64, random weights."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
        pad_token_id=PAD,
        eos_token_id=EOS,
        bos_token_id=None,
    )
    return LlamaForCausalLM(config).double()


def build_trainer(
    folder: Path,
    *,
    num_rows: int,
    group_size: int,
    reward_columns: Sequence[Scores] = (),
    reward_weights: Sequence[float] | None = None,
    use_vllm: bool = False,
    beta: float = 0.0,
    gradient_accumulation_steps: int = 1,
    **config: Any,
) -> GRPOTrainer:
    """A GRPOTrainer whose reward functions return the given columns, one number or None a row.

    use_vllm and beta are set after construction: the first would look for a server, the second for a model on disk.
    """
    words = {"<pad>": PAD, "<eos>": EOS} | {chr(97 + i): i + 2 for i in range(VOCAB - 2)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    columns = reward_columns or [[0.0] * num_rows]
    model = tiny_llama(0)
    trainer = GRPOTrainer(
        model=model,
        args=GRPOConfig(
            output_dir=str(folder),
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to=[],
            per_device_train_batch_size=num_rows // gradient_accumulation_steps,
            gradient_accumulation_steps=gradient_accumulation_steps,
            num_generations=group_size,
            num_iterations=2,  # so that the log-probs before the step are computed apart from those of the step
            reward_weights=reward_weights,
            **config,
        ),
        reward_funcs=[_reward(column, index) for index, column in enumerate(columns)],
        train_dataset=Dataset.from_dict({"prompt": ["a", "b"]}),
        processing_class=PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>"),
    )
    trainer.use_vllm = use_vllm
    trainer.beta = beta
    if beta:
        trainer.ref_model = tiny_llama(1)
        add_fused_lm_head(trainer.ref_model, temperature=trainer.temperature)
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = gradient_accumulation_steps
    return trainer


def _reward(column: Scores, index: int) -> Callable[..., list[float | None]]:
    def reward(completions: list[str], **_: Any) -> list[float | None]:
        return list(column)

    reward.__name__ = f"reward_{index}"
    return reward


def generated(
    trainer: GRPOTrainer,
    *,
    prompt_ids: list[list[int]],
    completion_ids: list[list[int]],
    sampler_logprobs: list[list[float]] | None,
) -> dict[str, Tensor]:
    """`_generate_and_score_completions` on completions that were not generated; nan = the sampler gave no log-prob."""
    listed = sampler_logprobs and [[None if math.isnan(x) else x for x in row] for row in sampler_logprobs]
    texts = ["" for _ in completion_ids]
    trainer._generate = lambda prompts: (
        prompt_ids, completion_ids, None, texts, listed, {}, None, None,
    )  # fmt: skip
    return trainer._generate_and_score_completions([{"prompt": "a"} for _ in completion_ids])


def step_loss(trainer: GRPOTrainer, scored: dict[str, Tensor]) -> Tensor:
    """The sum of `_compute_loss` over the micro-batches of one optimiser step."""
    parts = split_tensor_dict(scored, trainer.args.gradient_accumulation_steps)
    return torch.stack([trainer._compute_loss(trainer.model, part) for part in parts]).sum()


class MadeUpPass:
    """Stands in for a network's forward pass: log-probs and entropies of rows, found by the prompt's first token.

    TRL's loss code runs unchanged on numbers that no network would give, and their gradients can be read.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self.width = max(row.num_tokens for row in rows)
        self.logprobs = self._table([[x.value for x in row.logprobs_T] for row in rows])
        self.entropy = self._table([[x.value for x in row.entropy_T] for row in rows])
        self.logprobs.requires_grad_()
        self.entropy.requires_grad_()
        self.answer = self._table([list(row.proximal_T) for row in rows])
        self.ref = self._table([list(row.ref_T) for row in rows])

    def _table(self, values_B_T: Sequence[Sequence[float]]) -> Tensor:
        table = torch.zeros(len(values_B_T), self.width, dtype=torch.float64)
        for index, values in enumerate(values_B_T):
            table[index, : len(values)] = torch.tensor(values, dtype=torch.float64)
        return table

    def attach(self, trainer: GRPOTrainer) -> None:
        """Policy and reference now answer with the rows' numbers, the policy with those before the step."""

        def policy(model: Any, input_ids: Tensor, **_: Any) -> SimpleNamespace:
            which = input_ids[:, 0] - 2
            return SimpleNamespace(log_probs=self.answer[which], entropy=self.entropy[which])

        def reference(model: Any, input_ids: Tensor, **_: Any) -> SimpleNamespace:
            return SimpleNamespace(log_probs=self.ref[input_ids[:, 0] - 2], entropy=None)

        trainer.model.forward = MethodType(policy, trainer.model)
        if trainer.ref_model is not None:
            trainer.ref_model.forward = MethodType(reference, trainer.ref_model)

    def step(self) -> None:
        """From now on the policy answers with its log-probs after the step, with gradient."""
        self.answer = self.logprobs

    def slopes(self) -> list[float]:
        """The gradient row by row, log-probs before entropies, loss tokens only."""
        tables = [torch.zeros_like(x) if x.grad is None else x.grad for x in (self.logprobs, self.entropy)]
        return [
            value
            for index, row in enumerate(self.rows)
            for table in tables
            for value in table[index, : row.num_tokens].tolist()
        ]
