"""`reward_model`: a sequence-classification model scores completions, in a process of its own.

verifier -> process (a queue, and the thread that owns the child) -> worker_main (the child) -> scorer (torch)
"""
