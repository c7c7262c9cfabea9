"""Puts the recipes into the wheel, but not into an editable install, where their folder would hide the package."""

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class RecipesHook(BuildHookInterface):
    """recipes/ of the checkout becomes rlvr/_recipes of the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called by hatchling before it builds `version`: "standard" or "editable"."""
        if version == "standard":
            build_data["force_include"]["recipes"] = "rlvr/_recipes"
