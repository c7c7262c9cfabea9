"""The stages of a step: prompts are sampled and verified, groups are buffered and shaped, the learner is updated.

Comes in:   prompts in data order, completions from engines, verdicts.
Goes out:   an `Update` with its metrics, and evaluations.
"""
