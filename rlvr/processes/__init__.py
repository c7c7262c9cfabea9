"""Processes that we start: how they end with the one that started them, and what is removed after one was killed.

Standard library only.
"""
