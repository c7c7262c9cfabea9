"""Child processes: they end with their parent, and files of a killed process are removed.

Standard library only.
"""
