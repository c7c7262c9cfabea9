"""`rlvr cluster doctor`: what is wrong with the hosts of a cluster, and between them.

probe.py     on each host, in its image or virtual environment: facts as JSON
examine.py   on the user's machine: asks all hosts at once, in three rounds
machine.py   findings about each host alone
between.py   findings about differences and connections between hosts
"""
