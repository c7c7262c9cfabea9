"""The types of an answer: numbers, words, relations, regions of the reals."""
