"""A recipe as a raw document, before validation: values, and the line or override each came from.

Comes in:   YAML text, packaged recipes, `key=value`.
Goes out:   one document for pydantic to validate, and a resolved recipe written back as YAML.
"""
