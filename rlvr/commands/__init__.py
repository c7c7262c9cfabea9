"""The commands behind `rlvr ...`, one file each; `rlvr.cli` parses the arguments and calls them.

Commands:   train, eval (here, on a cluster, against a server), verify, check, doctor, plugins, recipes.
Comes in:   a loaded recipe, paths, options.
Goes out:   an exit code, console output, files in a run directory.
"""
