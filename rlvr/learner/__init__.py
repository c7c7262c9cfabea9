"""The learner: micro-batches, the optimiser step, publication of weights, checkpoints."""
