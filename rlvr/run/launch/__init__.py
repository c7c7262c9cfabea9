"""From a recipe to a run that goes, and to its end.

Comes in:   a loaded recipe, opened data, a choice about resuming.
Goes out:   `RunParts` for the loop; afterwards a closed run directory and an exit code.
"""
