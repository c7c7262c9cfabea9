"""The expression tree: its nodes, exact rational values, and tree transformations."""
