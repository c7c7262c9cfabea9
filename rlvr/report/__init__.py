"""Pictures and pages of a run, made from the files that it left."""
