"""The verifier `sql`: queries that must return the rows of a gold query, on embedded SQLite databases."""
