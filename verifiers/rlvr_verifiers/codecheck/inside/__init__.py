"""Programs that run in boxes: one next to the candidate, one next to the tests, and the wire format between them.

They are sent as source and import the standard library and each other alone.
"""
