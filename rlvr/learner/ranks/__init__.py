"""One learner over several processes: the group that the run uses, and its ranks.

Comes in:   the calls of the `Learner` protocol.
Goes out:   frames to rank processes that work in lockstep, each on its share of the rows; their combined answers.
"""
