"""What may be wrong with a run that goes on: no signal, cut completions, broken checkers, an engine that drifts.

Comes in:   the groups and metrics of each step.
Goes out:   alarms and advice, and for the governor what to do about a drift.
"""
