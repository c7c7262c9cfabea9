"""Pure functions: advantages, losses, KL, aggregation. Only `build.py` branches on type."""
