"""Policies: loading, export, tokenizer and chat template, token log-probs, checksums.

Lives here: one model in one process; `packed/` runs rows without padding.
Comes in:   a model path, rows of tokens.
Goes out:   a policy module, log-probs with gradient, a folder that transformers loads.
"""
