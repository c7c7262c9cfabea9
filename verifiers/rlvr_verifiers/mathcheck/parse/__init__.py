"""From LaTeX or plain text to the tree of an expression, within limits and in linear time."""
