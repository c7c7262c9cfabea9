"""The nodes of a Ray cluster: what they run, which may be used, whether the head is there, how they are drained.

Comes in:   Ray's tables of nodes.
Goes out:   usable nodes, events about those that come, go, or differ from the driver; `ClusterLost` without a head.
"""
