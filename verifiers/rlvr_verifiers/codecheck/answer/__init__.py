"""The program in a completion: which block it is, and whether it inspects its verifier.

Comes in:   the text of a completion.
Goes out:   source code, and signs of suspicion for a metric.
"""
