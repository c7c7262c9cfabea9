"""Watches a run for problems: no signal, truncated completions, broken checkers, a drifting engine.

Comes in:   the groups and metrics of each step.
Goes out:   alarms with advice, and the governor's decisions about drift.
"""
