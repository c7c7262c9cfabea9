"""The commands `rlvr cluster ...`."""
