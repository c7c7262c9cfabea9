"""Whether two expressions are equal: exact values, an image in a large finite field, bounded numerics."""
