"""Texts about keys for the user: errors, suggestions, explanations.

Comes in:   pydantic's errors, unknown keys, names that other trainers use.
Goes out:   sentences; nothing here decides whether a recipe is valid.
"""
