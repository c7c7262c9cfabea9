"""Verifiers whose execution is JAILED: their code, and the policy's text if they execute it, stay in a sandbox's jail.

jail      what the jail of each check shows, and how a worker is started in it
process   the worker as the pool sees it
main      the worker inside the jail, which forks for each chunk of items
verifier  what the run's process holds of a verifier whose code it never imports
"""
