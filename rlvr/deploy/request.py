"""What is rendered: a recipe, how `rlvr train` names it elsewhere, and the choices of the command line."""

import math
import re
import shlex
from dataclasses import dataclass

from rlvr.config.document.packaged import recipe_folder
from rlvr.config.load import LoadedRecipe
from rlvr.config.recipe import Recipe
from rlvr.deploy.choices import Choices
from rlvr.deploy.layout import Layout, counted
from rlvr.deploy.model_size import ModelSize
from rlvr.errors import ConfigError

_WAIT_S = 600.0
_LONGEST_NAME = 40  # KubeRay allows 47 characters for a RayJob, and names of ours end in -files or -env


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A recipe to render. overrides: KEY=VALUE as the user wrote them."""

    loaded: LoadedRecipe
    overrides: tuple[str, ...]
    layout: Layout
    size: ModelSize
    choices: Choices

    @property
    def recipe(self) -> Recipe:
        """The resolved recipe."""
        return self.loaded.recipe

    @property
    def packaged_name(self) -> str:
        """The name by which every installation finds the recipe; "" for a file of the user."""
        return packaged_name(self.loaded)

    @property
    def embedded(self) -> str:
        """The resolved recipe, for files that carry it; "" if its name is enough."""
        return "" if self.packaged_name else self.loaded.to_yaml()

    def train_words(self, recipe_path: str) -> list[str]:
        """Words of the `rlvr train` command that joins the cluster, without --run-dir and --resume.

        Args: recipe_path: where the embedded recipe will be, which holds the overrides already.
        """
        has_gpus = bool(self.layout.gpus_per_node)
        return ["rlvr", "train", *train_arguments(self.loaded, self.overrides, recipe_path, has_gpus=has_gpus)]

    @property
    def grace_s(self) -> int:
        """Seconds that a stopped run needs to save and to end."""
        return math.ceil(self.recipe.run.grace_s) + 60

    @property
    def image(self) -> str:
        """The image of the containers."""
        return self.choices.image or ("rlvr:gpu" if self.layout.gpus_per_node else "rlvr:cpu")

    @property
    def dns_name(self) -> str:
        """The recipe's name as Kubernetes and compose allow it."""
        return dns_name(self.recipe.name)

    @property
    def taken_variables(self) -> list[str]:
        """Variables that `cluster.env` takes from the environment of `rlvr train`."""
        return [name for name, value in self.recipe.cluster.env.items() if value is None]

    @property
    def set_variables(self) -> dict[str, str]:
        """Variables whose values `cluster.env` gives."""
        return {name: value for name, value in self.recipe.cluster.env.items() if value is not None}

    def summary(self) -> list[str]:
        """Lines for the top of a file: what it is for, and what the user should check."""
        layout, cluster = self.layout, self.recipe.cluster
        width = self.recipe.rollout.gpus_per_engine
        gpus = counted(layout.gpus_per_node, "GPU")
        of_gpus = f" of {counted(width, 'GPU')}" if layout.gpus_per_node else ""
        lines = [
            f"Rendered by `rlvr cluster render` for recipe {self.recipe.name}.",
            f"{counted(cluster.learners, 'learner')}, {counted(cluster.engines, 'engine')}{of_gpus}: "
            f"{counted(layout.nodes, 'node')} with {gpus}, {layout.cpus} cores and {layout.memory_gib} GiB of memory, "
            f"of which {layout.shm_gib} GiB are /dev/shm.",
            f"Memory is an estimate for {self.size.parameters / 1e9:.3g}B parameters ({self.size.source}).",
        ]
        return [*lines, *(f"CHECK: {note}" for note in layout.notes)]


def packaged_name(loaded: LoadedRecipe) -> str:
    """The name by which every installation finds the recipe; "" for a file of the user."""
    try:
        is_packaged = loaded.path.resolve().parent == recipe_folder().resolve()
    except ConfigError:  # this installation has no packaged recipes
        return ""
    return loaded.path.stem if is_packaged else ""


def train_arguments(loaded: LoadedRecipe, overrides: tuple[str, ...], recipe_path: str, *, has_gpus: bool) -> list[str]:
    """Arguments of the `rlvr train` that joins a cluster, without --run-dir and --resume.

    Args:
        overrides: KEY=VALUE as the user wrote them; they follow the name of a packaged recipe.
        recipe_path: where the resolved recipe will be if it is not packaged; it holds the overrides already.
        has_gpus: whether the cluster has GPUs.
    """
    name = packaged_name(loaded)
    given = [name, *overrides] if name else [recipe_path]
    # Nodes may join late: the run waits for them, and does not start on cores while it sees no GPU yet.
    given.append(f"cluster.wait_for_nodes_s={max(_WAIT_S, loaded.recipe.cluster.wait_for_nodes_s):g}")
    if has_gpus and loaded.recipe.learner.device == "auto":
        given.append("learner.device=cuda")
    return [*given, "cluster.backend=ray", "cluster.address=auto"]


def dns_name(name: str) -> str:
    """A label for Kubernetes and compose: lower case, digits and dashes, beginning with a letter.

    >>> dns_name("r1-zero-Qwen2.5"), dns_name("7b_run.")
    ('r1-zero-qwen2-5', 'run-7b-run')
    """
    found = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    if not found[:1].isalpha():
        found = f"run-{found}"
    return found[:_LONGEST_NAME].rstrip("-")


def shell_words(words: list[str]) -> str:
    """The words quoted for a POSIX shell, one per line."""
    return " \\\n    ".join(shlex.quote(word) for word in words)
