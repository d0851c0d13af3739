"""The regimen: tasks, teachers, supervised and reinforcement learning of both players."""

import logging

# Says on import that an optional kernel for CPUs is missing, whether or not 4-bit weights are used.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
