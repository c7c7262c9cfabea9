"""What a backend is asked to run. Does not import torch."""

from dataclasses import dataclass

from rlvr.config.load import LoadedRecipe
from rlvr.run.launch.preflight import OpenedData
from rlvr.run.record.console import Console
from rlvr.run.record.directory import RunDirectory
from rlvr.run.record.resume_choice import ResumeChoice
from rlvr.verification.service import VerifierService


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """A checked recipe, and where its run is recorded.

    service, data: come from `preflight.opened`.
    resume: which checkpoint to continue from, and whether inputs may have changed; None starts a new run.
    """

    loaded: LoadedRecipe
    service: VerifierService
    data: OpenedData
    directory: RunDirectory
    console: Console
    resume: ResumeChoice | None = None
