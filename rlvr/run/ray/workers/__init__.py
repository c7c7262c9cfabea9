"""The workers of a Ray run: per kind an actor, its handle for the loop, and fleets that act as a single worker.

Comes in:   calls to the `Learner`, `RolloutEngine` and `VerifierService` protocols.
Goes out:   calls to actors, with deadlines; a lost worker's work is retried on another.
"""
