"""How long torch's threads wait awake for each other; imported before torch, which reads it once.

Threads meet after every operation. One that waits awake (the default: for milliseconds) answers at once, but where a neighbour
needs its core, all wait for the thread that does not run: a training step then takes 4 to 25 times as long. Asleep at once,
threads lose 30 % of an idle machine. Awake for some microseconds first, they lose little in either case
(benchmarks/busy_machine.py). A value that somebody set stays.
"""

import os
import sys

SPINS = "6000"
IN_TIME = "torch" not in sys.modules
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
