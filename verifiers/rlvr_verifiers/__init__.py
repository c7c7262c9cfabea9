"""The built-in verifiers; see verifiers/README.md."""
