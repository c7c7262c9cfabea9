"""Code that runs in the box, next to an untrusted program. This folder is the security border of the product.

Comes in:   requests of the supervisor over descriptors that the program never holds.
Goes out:   how a program ended and what it wrote; nothing that it says is trusted.
It imports the standard library and itself alone, and it is all of this package that a namespace jail shows.
"""
