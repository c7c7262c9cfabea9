"""Pictures and pages of a run, made from the files that the run leaves."""
