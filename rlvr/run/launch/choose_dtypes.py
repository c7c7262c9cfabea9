"""Chooses the dtypes that a recipe leaves to the machine, and records why."""

from collections.abc import Callable
from dataclasses import dataclass

from rlvr.config.dtypes import has_auto, with_choice, with_dtypes
from rlvr.config.load import LoadedRecipe
from rlvr.config.recipe import Recipe
from rlvr.config.sections.learner import LearnerDtype
from rlvr.models.dtype_speed import DtypeSpeeds
from rlvr.records import Json


@dataclass(frozen=True, slots=True, kw_only=True)
class DtypeChoice:
    """A recipe without `auto`, and the reason. speeds: None when nothing had to be measured."""

    recipe: Recipe
    speeds: DtypeSpeeds | None

    @property
    def reason(self) -> str:
        """Why these dtypes were chosen."""
        return "follows learner.dtype" if self.speeds is None else self.speeds.reason

    @property
    def event(self) -> dict[str, Json]:
        """The fields of the event `dtypes`."""
        fields: dict[str, Json] = {
            "learner_dtype": self.recipe.learner.dtype.value,
            "engine_dtype": self.recipe.rollout.engine_dtype.value,
            "reason": self.reason,
        }
        if self.speeds is not None and self.speeds.shapes:
            fields["float32_gflops"] = round(self.speeds.float32_flops / 1e9, 1)
            fields["bfloat16_gflops"] = round(self.speeds.bfloat16_flops / 1e9, 1)
        return fields


def choose_dtypes(recipe: Recipe, *, measure: Callable[[], DtypeSpeeds]) -> DtypeChoice | None:
    """The choice for a recipe with `auto`; None when it sets all dtypes.

    Args: measure: called when the learner's dtype is `auto`; measures on the learner's device.
    """
    if not has_auto(recipe):
        return None
    stated = recipe.learner.dtype
    speeds = measure() if stated is LearnerDtype.AUTO else None
    learner = stated if speeds is None else speeds.choice
    return DtypeChoice(recipe=with_dtypes(recipe, learner=learner), speeds=speeds)


def apply_choice(loaded: LoadedRecipe, choice: DtypeChoice) -> LoadedRecipe:
    """The loaded recipe with the choice applied; `recipe.yaml` records the reason."""
    return with_choice(loaded, choice.recipe, reason=f"auto: {choice.reason}")
