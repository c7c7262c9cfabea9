"""Adapters of verifier names with a scheme: reward code of other trainers, unchanged, and reward servers."""
