"""Rows as one stream of tokens without padding, in which the prompt of a group is computed once.

Comes in:   rows of a micro-batch.
Goes out:   a layout of the stream, and attention over it: by a ragged kernel, in blocks, or in small matrix products.
"""
