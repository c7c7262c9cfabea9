"""Recipes and stand-ins that the tests of deployment files share."""

from pathlib import Path
from typing import Any

from rlvr.deploy.choices import Choices, Target
from rlvr.deploy.render import render
from rlvr.deploy.yaml_text import yaml_file

NODE = "r1-zero-qwen2.5-3b-countdown-node"
QUICKSTART = "quickstart-cluster"
SIZE = "3.09B"
NASTY = """it's "$HOME" $(touch pwned) `touch pwned`; #x $$ @NAME@ %d \\ é"""
# With a line that looks like the end of a here-document, and YAML 1.2 numbers that YAML 1.1 takes for text.
NASTY_LINES = f'description="{NASTY.replace(chr(92), "").replace(chr(34), "")}\nEND_OF_FILE\ntouch pwned\n"'
VALUES = {"NCCL_A": NASTY, "NCCL_B": "1e3", "NCCL_C": "0o7", "NCCL_D": "y", "NCCL_E": "", "NCCL_F": "null: [x"}


def rendered(recipe: str, *overrides: str, target: Target, **options: Any) -> dict[str, str]:
    """The files of a target. Args: options: of `render`, or of `Choices`."""
    for_render = {name: options.pop(name) for name in ("gpus", "is_cpu", "parameters") if name in options}
    for_render.setdefault("parameters", SIZE)  # reading the quickstart's model takes seconds
    files, _ = render(recipe, overrides, target=target, choices=Choices(**options), **for_render)
    return files


def nasty_recipe(folder: Path) -> Path:
    """A recipe file whose path, description and variables hold everything that shells and YAML treat specially."""
    path = folder / "my $recipe's.yaml"
    document = {
        "name": "my-recipe",
        "extends": "quickstart",
        "description": f"{NASTY}\nkind: Secret\nEND_OF_FILE\ntouch pwned",
        "rollout": {"engine": "vllm"},
        "algorithm": {"correction": {"weight": "token"}},
        "cluster": {"backend": "ray", "engines": 2, "env": {**VALUES, "WANDB_API_KEY": None}},
    }
    path.write_text(yaml_file([document], comments=[]), encoding="utf-8")
    return path


def put_programs(folder: Path, programs: dict[str, str]) -> Path:
    """A folder with executable shell scripts, for PATH."""
    folder.mkdir(exist_ok=True)
    for name, text in programs.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


# One process per node; the highest exit code.
SRUN = """#!/bin/bash
echo "$@" >srun.calls
while [ "${1#--}" != "$1" ]; do case "$1" in --ntasks=*) count=${1#*=} ;; esac; shift; done
code=0 pids=()
for ((i = 0; i < count; i++)); do SLURM_NODEID=$i "$@" & pids+=($!); done
for pid in "${pids[@]}"; do wait "$pid" || code=$?; done
exit "$code"
"""
SCONTROL = """#!/bin/bash
case "$1" in hostnames) ;; show) printf '127.0.0.%s\\n' 1 2 3 ;; *) echo "$*" >>scontrol.calls ;; esac
"""
# Writes down each argument it is called with.
RLVR = """#!/bin/bash
printf '%s\\0' "$@" >"$CALLS"
"""


def arguments_of(calls: Path) -> list[str]:
    """What the stand-in for rlvr was called with."""
    return calls.read_text(encoding="utf-8").split("\0")[:-1]
