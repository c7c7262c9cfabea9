"""Parts of the `code` verifier: references, the two programs inside the boxes, and the judgement outside them."""
