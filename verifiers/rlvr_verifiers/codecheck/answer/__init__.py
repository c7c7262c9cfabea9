"""Finds the program in a completion, and signs that it inspects its verifier.

Input:  the text of a completion.
Output: source code, and signs of suspicion for a metric.
"""
