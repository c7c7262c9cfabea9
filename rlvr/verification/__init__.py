"""Verdicts for completions: a service over a pool of killable worker processes.

Comes in:   completions with their prompts and references.
Goes out:   one verdict for each check of a completion. A verifier that raises is ERROR, never reward 0; one that hangs
            or crashes is tried once more and is then FAIL (ERROR if it is `async`).
"""
