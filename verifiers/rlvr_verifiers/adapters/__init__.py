"""Verifiers and data sources that use code of other projects, by a scheme in their name."""
