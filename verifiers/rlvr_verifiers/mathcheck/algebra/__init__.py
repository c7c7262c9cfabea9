"""Decides whether two expressions are equal: exact values, images in a finite field, numerics with error bounds."""
