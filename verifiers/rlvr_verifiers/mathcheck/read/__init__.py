"""From a text to all that it may mean, as typed answers."""
