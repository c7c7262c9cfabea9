"""Parts of the `code` verifier: references, the two programs inside the boxes, and the comparison outside them."""
