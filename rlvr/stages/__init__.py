"""Stages other than RL, over the same learner."""
