"""A run: its loop, its directory, what it writes and what a person sees of it."""
