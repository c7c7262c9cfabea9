"""What a running process shows of itself: numbers for Prometheus, and log records that say who wrote them.

Comes in:   numbers and log records of the run's processes, in memory.
Goes out:   per node, a folder of small files that a separate process serves over HTTP; per process, a log file.
"""
