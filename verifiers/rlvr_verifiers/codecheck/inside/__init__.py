"""Programs that run in boxes: one beside the candidate, one beside the tests, and the wire between them.

They are sent as source and import the standard library and each other alone.
"""
