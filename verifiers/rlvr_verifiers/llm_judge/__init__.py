"""`llm_judge`: a served model judges completions.

settings -> questions (what the judge is asked) -> server (budget, cache) -> replies (what it decided) -> verifier
"""
