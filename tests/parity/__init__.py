"""The arithmetic of other trainers, written by hand, and how far ours is from it. `rlvr parity` prints the table."""
