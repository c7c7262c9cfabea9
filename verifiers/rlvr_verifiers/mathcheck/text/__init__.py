"""String work before any parsing: where the answer is, and one spelling for layout, units and words."""
