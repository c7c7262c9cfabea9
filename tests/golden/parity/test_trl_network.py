"""The same tiny network, tokens and rewards through TRL's installed trainer and through ours: loss and weight gradient.

Nothing is trained or generated: completions are made up, and `_generate_and_score_completions` and `_compute_loss` run
on them as they are.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl", reason="TRL is not installed: pip install 'rlvr[bench]'")
pytest.importorskip("datasets", reason="TRL needs datasets: pip install 'rlvr[bench]'")

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel
from trl_trainer import EOS, PAD, VOCAB, build_trainer, generated, step_loss

from rlvr.algorithms.advantages import GroupRewards
from rlvr.algorithms.build import build_advantage, build_loss
from rlvr.batch import Batch
from rlvr.config.sections.algorithm import AlgorithmConfig


@pytest.fixture(autouse=True)
def float64_by_default() -> Iterator[None]:
    """TRL makes tensors of plain floats (log-probs, temperatures): in float64 here, so that nothing is rounded."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


PROMPTS = [[7, 8, 9], [10], [11, 12, 13, 14, 15]]
REWARDS = [[1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0], [None, 0.5, 1.0, 0.0]]
SAMPLER_NOISE, STEP_NOISE = 0.3, 0.03


@dataclass(frozen=True, kw_only=True)
class Made:
    """Prompts and completions of the network test, right-padded as our batches are."""

    token_ids: Tensor
    attention_mask: Tensor
    loss_mask: Tensor
    prompts: list[list[int]]
    completions: list[list[int]]

    def logprobs_and_entropy(self, model: PreTrainedModel) -> tuple[Tensor, Tensor]:
        """Column t describes token t."""
        out = model(input_ids=self.token_ids, attention_mask=self.attention_mask)
        distribution = torch.log_softmax(out.logits, -1)
        chosen = distribution[:, :-1].gather(2, self.token_ids[:, 1:, None])[..., 0]
        entropy = -(distribution.exp() * distribution).sum(-1)[:, :-1]
        return pad(chosen, (1, 0)), pad(entropy, (1, 0))


def made_completions() -> Made:
    """Three groups of four: prompts of 1 to 5 tokens, completions of 1 to 7, the last of each group truncated."""
    source = random.Random(3)
    prompts = [prompt for prompt in PROMPTS for _ in range(4)]
    completions = [
        [source.randint(2, VOCAB - 1) for _ in range(source.randint(1, 6))] + [EOS if index % 4 < 3 else 5]
        for index in range(len(prompts))
    ]
    rows = [torch.tensor(p + c) for p, c in zip(prompts, completions, strict=True)]
    token_ids = pad_sequence(rows, batch_first=True, padding_value=PAD)
    columns = torch.arange(token_ids.shape[1])
    starts = torch.tensor([len(p) for p in prompts])[:, None]
    ends = torch.tensor([len(row) for row in rows])[:, None]
    return Made(
        token_ids=token_ids,
        attention_mask=columns < ends,
        loss_mask=(columns >= starts) & (columns < ends),
        prompts=prompts,
        completions=completions,
    )


def our_gradient(
    config: AlgorithmConfig, made: Made, model: PreTrainedModel, *, behavior: Tensor, proximal: Tensor, ref: Tensor
) -> tuple[float, list[Tensor]]:
    """Our loss of the step, and its gradient at the network's weights."""
    counts = made.loss_mask.sum(1)
    groups = [
        GroupRewards(
            rewards_G=rewards,
            parts_G=[{} if r is None else {"r": r} for r in rewards],
            weights={"r": 1.0},
            num_tokens_G=counts[4 * i : 4 * i + 4].tolist(),
        )
        for i, rewards in enumerate(REWARDS)
    ]
    by_row = [a for group in build_advantage(config.advantage)(groups) for a in group]
    # An unjudged rollout leaves our loss; TRL keeps it with A = 0 in its denominators, so here it stays too.
    advantages = torch.tensor([a or 0.0 for a in by_row])[:, None].expand(made.token_ids.shape)
    group_index = torch.arange(3).repeat_interleave(4)
    batch = Batch(
        token_ids=made.token_ids,
        attention_mask=made.attention_mask,
        loss_mask=made.loss_mask,
        behavior_logprobs=behavior,
        proximal_logprobs=proximal,
        ref_logprobs=ref,
        advantages=advantages,
        group_index=group_index,
        group_num_tokens=counts.view(3, 4).sum(1)[group_index],
        num_loss_tokens=int(counts.sum()),
        num_sequences=len(by_row),
        num_prompts=3,
    )
    loss = build_loss(config, max_completion_tokens=8, uses_proximal=True)
    logprobs, entropy = made.logprobs_and_entropy(model)
    value = loss(logprobs, entropy=entropy, batch=batch).loss_sum
    value = value / loss.aggregator.denominator(batch.denominators)
    gradients = torch.autograd.grad(value, list(model.parameters()))
    return float(value.detach()), list(gradients)


CLIPPED = {"kind": "clipped", "clip_high": 0.28}
WEIGHTED = {"weight_min": 0.8, "weight_max": 1.2}
NETWORK_CASES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"loss_type": "dapo"}, {}),
    ({"loss_type": "dapo", "temperature": 1.0, "delta": 1.4}, {"loss": CLIPPED | {"dual_clip": 1.4}}),
    ({"loss_type": "grpo"}, {"aggregation": "sequence_mean"}),
    ({"loss_type": "grpo", "gradient_accumulation_steps": 3}, {"aggregation": "sequence_mean"}),
    ({"loss_type": "dapo", "gradient_accumulation_steps": 3}, {}),
    ({"loss_type": "dr_grpo"}, {"aggregation": "constant_length"}),
    ({"loss_type": "cispo", "epsilon_high": 1.1}, {"loss": {"kind": "cispo", "ratio_max": 1.1}}),
    ({"loss_type": "sapo"}, {"loss": {"kind": "sapo"}, "aggregation": "sequence_mean"}),
    (
        {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 0.02, "epsilon_high": 0.03},
        {"loss": {"kind": "gspo", "clip_low": 0.02, "clip_high": 0.03}, "aggregation": "sequence_mean"},
    ),
    ({"loss_type": "dapo", "entropy_coef": 0.005}, {"entropy_coef": 0.005}),
    ({"loss_type": "dapo", "beta": 0.1, "use_bias_correction_kl": False}, {"kl_coef": 0.1}),
    ({"loss_type": "dapo", "scale_rewards": "none"}, {"advantage": "dr_grpo"}),
    (
        {"loss_type": "dapo", "off_policy_mask_threshold": 0.05},
        {"correction": {"off_policy_threshold": 0.05}},
    ),
    *(
        (
            {
                "loss_type": "dapo",
                "use_vllm": True,
                "vllm_importance_sampling_mode": f"{level}_{bound}",
                "vllm_importance_sampling_clip_min": 0.8,
                "vllm_importance_sampling_clip_max": 1.2,
            },
            {"correction": WEIGHTED | {"weight": level, "bound": bound}},
        )
        for level in ("token", "sequence")
        for bound in ("truncate", "mask")
    ),
]  # fmt: skip


@pytest.mark.parametrize(("theirs", "ours"), NETWORK_CASES, ids=lambda value: str(value)[:70])
def test_the_same_network_and_tokens_give_the_same_loss_and_gradient(
    theirs: dict[str, Any], ours: dict[str, Any], tmp_path: Path
) -> None:
    made = made_completions()
    settings = {"epsilon_high": 0.28, "max_completion_length": 8} | theirs
    flat = [reward for rewards in REWARDS for reward in rewards]
    trainer = build_trainer(tmp_path, num_rows=len(flat), group_size=4, reward_columns=[flat], **settings)
    model = trainer.model
    with torch.no_grad():
        proximal = made.logprobs_and_entropy(model)[0]
        torch.manual_seed(5)
        behavior = proximal + SAMPLER_NOISE * torch.randn_like(proximal)
        ref = made.logprobs_and_entropy(trainer.ref_model or model)[0]
    sampler = [row[mask].tolist() for row, mask in zip(behavior, made.loss_mask, strict=True)]
    scored = generated(trainer, prompt_ids=made.prompts, completion_ids=made.completions, sampler_logprobs=sampler)
    with torch.no_grad():
        for weight in model.parameters():
            weight += STEP_NOISE * torch.randn_like(weight)
    loss = step_loss(trainer, scored)
    theirs_at = torch.autograd.grad(loss, list(model.parameters()))
    config = AlgorithmConfig.model_validate({"loss": CLIPPED, **ours})
    value, ours_at = our_gradient(config, made, model, behavior=behavior, proximal=proximal, ref=ref)
    assert float(loss.detach()) == pytest.approx(value, abs=1e-6)
    assert max(float(g.abs().max()) for g in ours_at) > 1e-2
    for a, b in zip(ours_at, theirs_at, strict=True):
        assert float((a - b).abs().max()) <= 1e-6
