"""Policies: loading, export, tokenizer and chat template, token log-probs, checksums."""
