"""Puts recipes and start scripts into the wheel, but not into an editable install, where the checkout has them."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class RecipesHook(BuildHookInterface):
    """recipes/ of the checkout becomes rlvr/_recipes of the wheel, and the scripts of docker/ become rlvr/_docker.

    The images are built without docker/: there the scripts are on PATH.
    """

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before it builds `version`: "standard" or "editable"."""
        if version == "standard":
            build_data["force_include"]["recipes"] = "rlvr/_recipes"
            for script in Path(self.root, "docker").glob("*.sh"):
                build_data["force_include"][f"docker/{script.name}"] = f"rlvr/_docker/{script.name}"
