"""A run: its loop, and the folders with the parts that the loop calls.

loop.py, producer.py   the training loop and its producer; they depend on Protocols only
after_step.py          what follows a step: settles its prompts, and decides whether the run may continue
parts.py               the parts of a run, and the Protocols that the loop needs
activity.py            the status line on a terminal
launch/                builds the parts of a run from a recipe, runs it and closes it
step/                  from prompts to groups to an optimiser step
weights/               publishes weights to engines and proves that they arrived
monitor/               watches a run for problems: alarms, broken checkers, drift
record/                writes the run directory, and reads it on resume
ray/                   the same parts as Ray actors
"""
