"""A run: its loop, and the folders that hold what the loop calls.

loop.py, producer.py   the training loop; they depend on Protocols only
launch/                builds the parts of a run from a recipe, runs it and closes it
step/                  from prompts to groups to an optimiser step
weights/               publishes weights to engines and proves that they arrived
monitor/               watches a run for problems: alarms, broken checkers, drift
record/                writes the run directory, and reads it on resume
ray/                   the same parts as Ray actors
"""
