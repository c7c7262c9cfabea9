"""The built-in verifiers: `text_match`, `countdown` and `math`; see verifiers/README.md."""
