"""References: the tests of a program, in the formats of known data sets and our own, read and checked once.

Input:  the reference of a data row.
Output: tests with their limits, or an error that says what is wrong with the row.
"""
