"""Whether a written mathematical answer equals a reference, in bounded time: the standard library alone, but for the
value of a reference that sympy has to find.

    text/     strings: where the final answer is, one spelling for layout, units and words
    tree/     the tree of an expression
    parse/    tokens to trees
    algebra/  whether two trees are equal: exactly, in a finite field, by bounded numerics
    values/   numbers, words, relations, regions: the types of an answer
    read/     all that a text may mean, as typed answers
    compare/  answer against reference, by the type of the reference
    judging   the judgement of a completion
"""
