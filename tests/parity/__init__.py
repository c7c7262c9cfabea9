"""The arithmetic of other trainers, written by hand, and how far ours is from it. `make parity` prints the table."""
