"""Each setting of speed on a GPU gives the loss and gradient of the plain learner, in bfloat16.

The loss agrees within 1 %, the gradient within 3 %: one rounding to bfloat16 is 0.4 %, and fused kernels round at other
places than eager ones.
"""

from pathlib import Path

import pytest
import torch
from transformers.models.llama import modeling_llama

from rlvr.config.recipe import TinyModel
from rlvr.config.sections.learner import Kernels, LearnerConfig, LearnerDtype
from rlvr.models.policy import build_tiny
from tests.unit.learner.learner_cases import make_batch, make_learner, relative

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
TINY = TinyModel(layers=2, hidden_size=128, heads=2, intermediate_size=256, characters="0123456789:")
PLAIN = LearnerConfig(dtype=LearnerDtype.BFLOAT16_AUTOCAST, logits_memory_mb=1)
PATCHED = ("apply_rotary_pos_emb", "LlamaRMSNorm", "LlamaMLP")  # by Liger, for every Llama of the process


def loss_and_gradient(folder: Path, config: LearnerConfig) -> tuple[float, torch.Tensor]:
    policy = build_tiny(TINY, seed=3)
    policy.model.to("cuda")  # type: ignore[arg-type] # transformers wraps `to`
    learner = make_learner(folder, policy=policy, config=config)
    learner.accumulate(make_batch(num_groups=16))
    learner._sums.resolve()
    parameters = learner.policy.model.parameters()
    return float(learner._sums.loss_sum), torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])


@pytest.mark.parametrize(
    "changes",
    [{"logits_memory_mb": 0}, {"compile": True}, {"gradient_checkpointing": True}, {"kernels": Kernels.LIGER}],
    ids=["large chunks", "compiled", "checkpointing", "liger"],
)
def test_a_setting_of_speed_changes_no_number_beyond_rounding(
    changes: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if changes.get("kernels"):
        pytest.importorskip("liger_kernel")
    expected_loss, expected = loss_and_gradient(tmp_path / "plain", PLAIN)
    for name in PATCHED:
        monkeypatch.setattr(modeling_llama, name, getattr(modeling_llama, name))  # restored after the test
    loss, gradient = loss_and_gradient(tmp_path / "changed", PLAIN.model_copy(update=changes))
    assert loss == pytest.approx(expected_loss, rel=0.01, abs=0.01)
    assert relative(gradient, expected) < 0.03
