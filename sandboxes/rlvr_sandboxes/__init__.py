"""Execution backends for untrusted programs."""
