"""Code that runs in boxes: one program for the candidate, one for the tests, and the wire format between them.

These files are sent as source and import only the standard library and each other.
"""
