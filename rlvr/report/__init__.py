"""Charts and pages of a run, made from its files."""
