"""One learner over several processes: the group that the run sees, and the ranks behind it.

Comes in:   the calls of the `Learner` protocol.
Goes out:   frames to rank processes that work in lockstep, each on its share of the rows; their answers, put together.
"""
