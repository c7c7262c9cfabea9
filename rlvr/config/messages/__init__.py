"""What a person is told about a key: what is wrong with it, what was probably meant, what it means.

Comes in:   pydantic's errors, unknown keys, names that other trainers use.
Goes out:   sentences; nothing here decides what is valid.
"""
