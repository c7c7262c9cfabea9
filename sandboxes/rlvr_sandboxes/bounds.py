"""Upper bounds of the resources that a recipe may request for a sandbox."""

import os

# Boxes that wait at the same time: each holds processes, and more than a few for a core never work at once.
MOST_SLOTS = max(256, 16 * (os.cpu_count() or 1))
