"""The proof section: how engines that hold a copy of the weights prove that they compute with the learner's."""

from rlvr.config.sections.section import NonNegativeInt, PositiveInt, Section


class ProofConfig(Section):
    """What is checked beside the checksums of every sync. Engines that share the learner's tensors need none.

    at_start: each group of tensors is perturbed in turn, and every engine's log-probs must follow the learner's.
    max_groups: how many groups at about the most; each costs one sync of the weights (fewer: larger groups). A copy in
        the learner's process, which packs nothing, has 8.
    drift_every_syncs: at every so many versions each engine's log-probs are compared with the learner's (0 = never).
    canary_tokens: tokens of that comparison; a quarter for a copy in the learner's process.
    """

    at_start: bool = True
    max_groups: PositiveInt = 48
    drift_every_syncs: NonNegativeInt = 10
    canary_tokens: PositiveInt = 2048
