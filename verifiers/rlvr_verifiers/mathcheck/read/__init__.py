"""Turns a text into all its possible readings, as typed answers."""
