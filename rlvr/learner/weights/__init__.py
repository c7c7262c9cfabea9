"""Weights on their way out of the learner: checksummed, written for engines, perturbed for the start-up proof.

Comes in:   the policy's parameters.
Goes out:   a `WeightsRef` that an engine can load and whose checksum it must report.
"""
