"""`rlvr import`: a recipe from another trainer's configuration."""
