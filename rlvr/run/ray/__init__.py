"""The Ray backend: the same run with learner, engines and verifiers as actors. The only package that imports ray.

Comes in:   a recipe with `cluster.backend: ray`.
Goes out:   handles (in `workers/`) that implement the Protocols of a run, on nodes that all run the same code.
"""
