"""The workers of a Ray run: for each kind an actor on its node, its handle for the loop, and fleets that look like one.

Comes in:   calls of the `Learner`, `RolloutEngine` and `VerifierService` protocols.
Goes out:   calls of actors with deadlines; the work of a worker that is lost goes to another.
"""
