"""After a load the engine must be what a fresh vLLM is that reads the same weights from a model's folder."""

import dataclasses
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")
sys.path.insert(0, str(Path(__file__).parent))
import vllm_cases as cases
from vllm_cases import Living

from rlvr.models.policy import Policy
from rlvr.rollout.vllm.engine import VllmEngine
from rlvr.rollout.vllm.settings import EngineSettings

pytestmark = pytest.mark.cluster
ROWS = [*cases.CANARY, (1, *[4 + i * 5 % 11 for i in range(150)])]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class FromFolder(EngineSettings):
    """Lets vLLM read a model's folder itself."""

    folder: str

    def call_arguments(self, folder: str) -> dict[str, Any]:
        return {
            **self.arguments,
            "model": self.folder,
            "tokenizer": folder,
            "load_format": "auto",
            "worker_extension_cls": self.extension,
        }


def fresh_scores(policy: Policy, folder: Path, *changes: str) -> list[list[float]]:
    """What vLLM's own way of loading gives for ROWS."""
    policy.model.save_pretrained(folder)
    built = cases.engine_for(policy, *changes)
    fields = {f.name: getattr(built._settings, f.name) for f in dataclasses.fields(EngineSettings)}
    engine = VllmEngine(FromFolder(**fields, folder=str(folder)), text=policy.text, architecture=policy.model.config)
    living = Living(engine)
    try:
        living.run(engine.start(), within_s=500)
        return living.run(engine._score(ROWS))
    finally:
        living.end()


def loaded_scores(first: Policy, second: Policy, folder: Path, *changes: str) -> list[list[float]]:
    """What the engine gives for ROWS after `first` and then `second` were loaded."""
    living = Living(cases.engine_for(first, *changes))
    try:
        living.run(living.engine.start(), within_s=500)
        for version, policy in enumerate((first, second)):
            path = folder / f"v{version}.safetensors"
            ref = cases.publish(cases.tensors_of(policy), path, version=version)
            living.run(living.engine.load_weights(ref))
        return living.run(living.engine.score(ROWS))
    finally:
        living.end()


def check(first: Policy, second: Policy, tmp_path: Path, *changes: str) -> None:
    loaded = loaded_scores(first, second, tmp_path, *changes)
    assert loaded == fresh_scores(second, tmp_path / "model", *changes)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_tied_weights_equal_a_fresh_engines_bit_for_bit(tmp_path: Path, dtype: str):
    check(cases.tiny_policy(seed=1), cases.tiny_policy(seed=2), tmp_path, f"rollout.engine_dtype={dtype}")


def test_untied_weights_equal_a_fresh_engines_bit_for_bit(tmp_path: Path):
    check(cases.untied_policy(seed=1), cases.untied_policy(seed=2), tmp_path)


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.parametrize("is_tied", [True, False])
def test_compiled_engines_equal_fresh_ones_bit_for_bit(tmp_path: Path, is_tied: bool):
    make = cases.tiny_policy if is_tied else cases.untied_policy
    check(make(seed=1), make(seed=2), tmp_path, "rollout.engine_args.enforce_eager=false")


@pytest.mark.slow
def test_a_worker_in_a_process_of_its_own_equals_a_fresh_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
    check(cases.tiny_policy(seed=1), cases.tiny_policy(seed=2), tmp_path)
