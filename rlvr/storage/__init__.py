"""Atomic files, folders sealed with digests, and bounded reading of user files.

Imports only the standard library and `rlvr.errors`.
"""
