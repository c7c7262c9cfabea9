"""Our own child processes: started, talked to over frames, ended with their parent, cleaned up after when killed.

Verifier workers, learner ranks and the fleets of a cluster are built from this; it knows none of them, and imports only
the standard library and `rlvr.errors`.
"""
