"""The program that runs Lean in the sandbox; it is sent there as a file."""
