"""`rlvr verifiers new`: a verifier with its cases and tests, as files or as a package. `write.py` writes what
`templates.py` holds.
"""
