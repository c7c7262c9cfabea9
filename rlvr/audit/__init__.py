"""`rlvr audit`: attacks a verifier with completions that solve nothing, and reports which of them earn a reward."""
