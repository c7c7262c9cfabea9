"""The commands behind `rlvr ...`; `rlvr.cli` parses the arguments and calls them.

train.py, dry_run.py              train, and train --dry-run
evaluate*.py                      eval: in this process, on a cluster, against a server
verify_file.py                    verify
check.py                          check: memory and time of a recipe
doctor.py, sandbox_report.py      doctor, and the report of `sandboxes`
listings.py                       recipes, verifiers and sandboxes, with their sub-commands
runs.py                           runs

Input:  a loaded recipe, paths, options.
Output: an exit code, console output, files in a run directory.

`rlvr report` is `rlvr.report`.
"""
