"""`lean`: proofs of Lean 4 theorems, checked by an installed Lean in a sandbox."""
