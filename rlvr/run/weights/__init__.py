"""Publication of weights to engines, and proof that what an engine computes with is what the learner published.

Comes in:   a learner and its engines.
Goes out:   a sync with receipts, or an error that says which engine differs and by how much.
"""
