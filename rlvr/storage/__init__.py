"""Atomic files, folders sealed with digests, and bounded reading of user files.

Standard library only.
"""
