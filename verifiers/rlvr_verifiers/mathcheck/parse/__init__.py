"""Parses LaTeX or plain text into an expression tree, within limits and in linear time."""
