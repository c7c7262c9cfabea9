"""`reasoning_gym:TASK`: the tasks of the package reasoning-gym, as verifiers and as data sources."""
