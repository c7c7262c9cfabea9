"""The proof section: how engines with a copy of the weights are verified to use the learner's."""

from rlvr.config.sections.section import NonNegativeInt, PositiveInt, Seconds, Section


class ProofConfig(Section):
    """Checks in addition to the checksums of every sync. Engines that share the learner's tensors need none.

    at_start: each group of tensors is perturbed in turn, and every engine's log-probs must follow the learner's.
    max_groups: approximate maximum of groups; each costs one sync of the weights (fewer: larger groups). A copy in
        the learner's process, which packs nothing, has 8.
    max_seconds: time for all groups. Once it is clear that it will not suffice, the groups still to come are merged
        into fewer; every tensor is still perturbed, but an error then names a larger group.
    drift_every_syncs: versions between comparisons of each engine's log-probs with the learner's (0 = never).
    canary_tokens: tokens of that comparison; a quarter for a copy in the learner's process.
    """

    at_start: bool = True
    max_groups: PositiveInt = 48
    max_seconds: Seconds = 120.0
    drift_every_syncs: NonNegativeInt = 10
    canary_tokens: PositiveInt = 2048
