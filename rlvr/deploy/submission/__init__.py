"""Runs that were submitted to a cluster.

submit.py       on the user's machine: checks the recipe, asks the head host to start the run
host.py         on the head host: starts, lists, stops and resumes runs; reads and prints JSON
supervisor.py   on the head host, one process per run: runs `rlvr train`, and again with --resume after a loss
run_folder.py   SHARED/submitted/NAME, the files through which these processes communicate
"""
