"""Sources of prompts: files, hub data sets and generators, mixed in a resumable order. No torch here."""
