"""HTTP to external services: engines, LLM judges, remote sandboxes.

Comes in:   a request as JSON, with a deadline.
Goes out:   the answer as JSON, or an error that names the service and never shows the key.
"""
