"""The keys of a recipe, one file for each section, and the rules between them.

Comes in:   plain values of a document.
Goes out:   frozen pydantic models; what two keys must not say together is in `contradictions.py`.
"""
