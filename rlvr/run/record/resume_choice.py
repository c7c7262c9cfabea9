"""The command-line options of a resume. Does not import torch."""

from dataclasses import dataclass
from typing import Annotated

import typer

from rlvr.errors import ConfigError

Checkpoint = Annotated[str, typer.Option(metavar="step_N", help="with --resume: continue from this checkpoint")]
AllowChangedInputs = Annotated[
    bool, typer.Option("--allow-changed-inputs", help="with --resume: allow changed data or verifiers")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeChoice:
    """The checkpoint to resume from, and whether data and verifiers may have changed.

    checkpoint: `step_N`; "" for the newest intact one.
    """

    checkpoint: str = ""
    allows_changed_inputs: bool = False


def resume_choice(resume: bool, checkpoint: str, allows_changed_inputs: bool) -> ResumeChoice:
    """The options as given. Raises ConfigError for options that need --resume."""
    if (checkpoint or allows_changed_inputs) and not resume:
        raise ConfigError("--checkpoint and --allow-changed-inputs need --resume; add it")
    return ResumeChoice(checkpoint=checkpoint, allows_changed_inputs=allows_changed_inputs)
