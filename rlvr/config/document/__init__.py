"""A recipe as a document, before it has meaning: values, and the line or the override that each came from.

Comes in:   YAML text, packaged recipes, `key=value`.
Goes out:   one document for pydantic to validate, and a resolved recipe written back as YAML.
"""
