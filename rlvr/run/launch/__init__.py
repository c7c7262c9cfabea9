"""Starts a run from a recipe, and closes it at the end.

Comes in:   a loaded recipe, opened data, the resume options.
Goes out:   `RunParts` for the loop; afterwards a closed run directory and an exit code.
"""
