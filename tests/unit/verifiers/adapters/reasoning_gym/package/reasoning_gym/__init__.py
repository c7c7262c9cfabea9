"""A small stand-in for the package of this name, with the same interface; it shares no code with it."""

from .factory import create_dataset

__all__ = ["create_dataset"]
