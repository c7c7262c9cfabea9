"""Publishes weights to engines, and proves that engines compute with the weights that the learner published.

Comes in:   a learner and its engines.
Goes out:   a sync with receipts, or an error that says which engine differs and by how much.
"""
