"""Memory and time of a recipe, by arithmetic, before anything is loaded."""
