"""Compares an answer with a reference; the type of the reference decides how."""
