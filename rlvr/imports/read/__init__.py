"""Configurations of other trainers as flat keys and values, each with its place in the file."""
