"""Files that are whole or not there, folders with digests, and reading what a user names within bounds.

Standard library only.
"""
