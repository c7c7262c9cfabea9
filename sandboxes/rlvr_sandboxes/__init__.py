"""Execution backends for untrusted programs.

selection, namespaces, landlock, docker, unsafe, remote   the backends, as the registry finds them
outside/                                                  the supervisor: slots, limits, probes
inside/                                                   code that runs in the box, next to the program
"""
