"""Writes everything that a run leaves behind, and reads it again on resume.

Comes in:   steps, groups, evaluations, events, checkpoints.
Goes out:   the run directory: recipe, metrics, events, ledger, rollouts, checkpoints; console lines; sinks.
"""
