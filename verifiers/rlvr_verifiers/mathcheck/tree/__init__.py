"""The tree of an expression: its nodes, exact rational values, and trees made from trees."""
