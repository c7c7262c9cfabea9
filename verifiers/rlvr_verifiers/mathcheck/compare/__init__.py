"""An answer against a reference; the type of the reference decides how they are compared."""
