"""Publication of the learner's weights: checksums, files for engines, perturbations for the start-up proof.

Comes in:   the policy's parameters.
Goes out:   a `WeightsRef` that an engine can load and whose checksum it must report.
"""
