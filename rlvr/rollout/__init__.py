"""Rollout engines: tokens in, tokens out. The transformers engine and the toy engine live in the learner's process."""
