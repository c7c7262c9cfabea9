"""The verifier `logic`: knights-and-knaves puzzles and constraint puzzles, with a solver that checks references."""
