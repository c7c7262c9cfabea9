"""Deployment files of a recipe: a KubeRay manifest, a Slurm script, a compose file.

Comes in:   a recipe with `cluster.backend: ray`, and what the user states about the machines.
Goes out:   text. Nothing is started, no weights are read, and no connection is opened.
"""
