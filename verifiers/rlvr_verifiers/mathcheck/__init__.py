"""Decides in bounded time whether a written mathematical answer equals a reference.

Dependencies: the standard library, mpmath for high-precision values, and sympy to evaluate references.

    text/         strings: finds the final answer; normalises layout, units and words
    tree/         the expression tree
    parse/        tokens to trees
    algebra/      whether two trees are equal: exactly, in a finite field, by numerics with error bounds
    values/       the types of an answer: numbers, words, relations, regions
    read/         every meaning that a text may have, as typed answers
    compare/      compares an answer with a reference, according to the type of the reference
    verification  the verdict on a completion
"""
