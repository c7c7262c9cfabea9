"""An sbatch script: a Ray cluster on the nodes of a Slurm job, and the run on its first node.

One `srun` starts one task per node from `job.sbatch`, so that Ray, the run and a container of pyxis share their files
and memory on each node. The script is a template; each `@NAME@` is replaced once, by quoted text.
"""

import re
import shlex
from importlib import resources

from rlvr.deploy.layout import OBJECT_STORE_BYTES
from rlvr.deploy.request import Request, shell_words
from rlvr.deploy.yaml_text import comment_block
from rlvr.errors import ConfigError

_MARK = re.compile(r"@([A-Z_]+)@")
_OPTION = re.compile(r"--?[A-Za-z][\x20-\x7e]*")
_TIME = re.compile(r"\d+(-\d+)?(:\d+){0,2}")
_RECIPE_FILE = "RLVR-RECIPE-FILE"  # replaced, after quoting, by a variable of the script


def slurm_files(request: Request) -> dict[str, str]:
    """The text of job.sbatch, keyed by file name. Raises ConfigError when an option could not be a directive."""
    template = (resources.files("rlvr.deploy") / "job.sbatch").read_text(encoding="utf-8")
    layout, choices = request.layout, request.choices
    train = shell_words(request.train_words(_RECIPE_FILE)).replace(_RECIPE_FILE, '"$folder/recipe.yaml"')
    if request.packaged_name:
        train = shell_words(request.train_words(""))
    values = {
        "COMMENTS": comment_block(_header(request)).rstrip("\n"),
        "DIRECTIVES": "\n".join(f"#SBATCH {line}" for line in _directives(request)),
        "NODES": str(layout.nodes),
        "RAY_CPUS": str(layout.ray_cpus),
        "RAY_GPUS": str(layout.gpus_per_node),
        "MAX_RESTARTS": str(choices.restarts),
        "CONTAINER_IMAGE": shlex.quote(choices.container_image),
        "VENV": shlex.quote(choices.venv),
        "NAME": request.recipe.name,  # letters, digits, dots, dashes and underscores
        "REQUIRED": "".join(
            f': "${{{name}:?cluster.env takes it from the environment of sbatch}}"\n'
            for name in request.taken_variables
        ),
        "RECIPE": _recipe(request),
        "OBJECT_STORE": str(OBJECT_STORE_BYTES),
        "TRAIN": train,
        "END": _end_marker(train),
    }
    return {"job.sbatch": _MARK.sub(lambda found: values[found[1]], template)}


def _header(request: Request) -> list[str]:
    choices = request.choices
    if choices.container_image:
        where = "the container image, which pyxis starts"
    else:
        where = choices.venv or "the environment that sbatch is called in"
    return [
        *request.summary(),
        "",
        "sbatch job.sbatch",
        "Ahead of the time limit the run saves and the job is requeued; it then continues. scancel saves too, if "
        "KillWait is long enough, and does not requeue.",
        f"rlvr and ray are taken from {where}. The folder that sbatch is called in must be shared by all nodes.",
        "Variables: RLVR_RUN_DIR, RLVR_STATE_DIR, RLVR_PORT (6379; each node uses the 1,100 ports from there), "
        "RLVR_HEAD_IP, RLVR_JOIN_DEADLINE_S (600), RLVR_MOUNTS (more --container-mounts).",
        "On nodes that are shared between jobs, remove --exclusive and give each job its own RLVR_PORT.",
    ]


def _directives(request: Request) -> list[str]:
    layout, choices = request.layout, request.choices
    if choices.time and not _TIME.fullmatch(choices.time):
        raise ConfigError(f"--time {choices.time!r} is not a Slurm time limit; write 24:00:00 or 1-12")
    for option in choices.sbatch:
        if not _OPTION.fullmatch(option):
            raise ConfigError(
                f"--sbatch {option!r} is not an sbatch option; write --sbatch=--partition=gpu, one at a time"
            )
    gpus = [f"--gres=gpu:{layout.gpus_per_node}"] if layout.gpus_per_node else []
    return [
        f"--job-name={request.recipe.name}",
        f"--nodes={layout.nodes}",
        "--ntasks-per-node=1",
        "--exclusive",
        *gpus,
        f"--cpus-per-task={layout.cpus}",
        f"--mem={layout.memory_gib}G",
        *([f"--time={choices.time}"] if choices.time else []),
        f"--signal=B:USR1@{request.grace_s + 60}",
        "--requeue",
        "--open-mode=append",
        "--output=%x-%j.log",
        *choices.sbatch,
    ]


def _recipe(request: Request) -> str:
    """Shell code that writes the embedded recipe next to the token; "" if the recipe is packaged."""
    if not request.embedded:
        return ""
    end = _end_marker(request.embedded)
    return f"cat >\"$folder/recipe.yaml\" <<'{end}'\n{request.embedded.rstrip()}\n{end}\n"


def _end_marker(text: str) -> str:
    """A word that ends a here-document with this text, and is not in it."""
    end = "END_OF_FILE"
    while end in text:
        end += "_"
    return end
