"""The types of an answer: numbers, words, relations, and sets of reals."""
