"""Rollout engines: tokens in, tokens out. The transformers engine and the toy engine run in the learner's process."""
