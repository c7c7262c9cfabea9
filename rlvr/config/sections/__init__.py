"""The keys of a recipe, one file for each section, and the rules between them.

Comes in:   plain values of a document.
Goes out:   frozen pydantic models; rules between two keys are in `contradictions.py`.
"""
