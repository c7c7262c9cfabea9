"""What one step is made of: prompts are sampled and judged, groups are buffered and shaped, the learner is updated.

Comes in:   issues of prompts from the data order, completions from engines, verdicts.
Goes out:   an `Update` with its metrics, and evaluations.
"""
