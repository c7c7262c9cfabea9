"""The verifier `format`: tags, language and repetition of a completion."""
