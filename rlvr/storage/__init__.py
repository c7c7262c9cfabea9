"""Atomic files, folders sealed with digests, bounded reading of user files, ages of files, and file locks.

Imports only the standard library and `rlvr.errors`.
"""
