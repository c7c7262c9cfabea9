"""What a program is tested with: references of known data sets and our own, read and checked once.

Comes in:   a reference of a data row.
Goes out:   tests with their limits, or an error that says what is wrong with the row.
"""
