"""Pure functions: advantages, losses, KL, aggregation. `build.py` is the one place that branches on type."""
