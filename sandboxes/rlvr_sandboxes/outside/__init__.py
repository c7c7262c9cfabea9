"""The supervisor's side of a sandbox: warm slots, their users and control groups, what a machine must have.

Comes in:   programs with files, input and limits.
Goes out:   results of runs, or sessions with a program; a slot that broke is replaced.
"""
