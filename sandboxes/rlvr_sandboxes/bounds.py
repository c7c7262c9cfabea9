"""How much of this machine a sandbox may be asked for."""

import os

# Boxes that wait at the same time: each holds processes, and more than a few for a core never work at once.
MOST_SLOTS = max(256, 16 * (os.cpu_count() or 1))
