"""Verdicts for completions: a service over a pool of killable worker processes.

Comes in:   completions with their prompts and references.
Goes out:   one verdict for each check of a completion; a crash or a missed deadline is ERROR, never reward 0.
"""
