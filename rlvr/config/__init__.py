"""The recipe: pydantic models, loading with line numbers, overrides, provenance. No torch is imported here."""
