"""Whether a written mathematical answer equals a reference, in bounded time: the standard library alone, but for the
value of a reference that sympy has to find.
"""
