"""A run: its loop, and the folders that hold what the loop calls.

loop.py, producer.py   the story of a step; they see Protocols only
launch/                from a recipe to the parts of a run, and to its end
step/                  from prompts to groups to an optimiser step
weights/               publication of weights to engines, and proof that they arrived
monitor/               what may be wrong with a run that goes on: alarms, broken checkers, drift
record/                everything that a run leaves behind, and how it is found again on resume
ray/                   the same parts as Ray actors
"""
