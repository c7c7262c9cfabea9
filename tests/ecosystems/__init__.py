"""Tests with other people's real packages, each in an environment of its own; `make test-ecosystems` runs them."""
