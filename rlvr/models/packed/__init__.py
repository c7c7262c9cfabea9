"""Rows as one stream of tokens without padding, with the prompt of a group computed once.

Comes in:   rows of a micro-batch.
Goes out:   a layout of the stream, and attention over it: by a ragged kernel, in blocks, or in small matrix products.
"""
