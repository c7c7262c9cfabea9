"""The built-in verifiers `math`, `countdown`, `text_match`, `code` and `llm_judge`; see verifiers/README.md."""
