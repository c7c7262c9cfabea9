"""String processing before parsing: finds the answer and normalises layout, units and words."""
