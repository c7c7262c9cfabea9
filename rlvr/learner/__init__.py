"""The learner: micro-batches, the optimiser step, checkpoints; on one process or, in `ranks/`, on several.

Comes in:   a `Batch` of tokens, sampled masks and advantages.
Goes out:   step metrics, checkpoints, and through `weights/` the weights that engines load.
"""
