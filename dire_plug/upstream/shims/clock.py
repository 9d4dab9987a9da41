"""Replace `time.time`, for upstream's code alone, by a function of the seed and of the number of calls.

Needed by MTT `utils.py` 195 and G-VBSM `baseline.py` 195 (each new network reseeds torch from it), DM `methods/dc/`
`utils.py` 125 and `main_DM.py` 156, 174: two runs with one seed differed. All take milliseconds modulo 100000.
"""

import itertools
import random
import sys
import time

from dire_plug.upstream.shims._frames import is_upstreams

BEGIN = 1_600_000_000_000
"""Milliseconds; a plausible date."""
CYCLE = 100_000
"""The modulus that upstream takes of the milliseconds."""
STEP = 17
"""Milliseconds between calls: small, and without a common divisor with CYCLE, so that no seed repeats before all
have been used."""


def install(*, device: str, seed: int) -> None:
    """Replace `time.time` where upstream calls it; all other code gets the true time."""
    true_time = time.time
    milliseconds = itertools.count(BEGIN + random.Random(seed).randrange(CYCLE), STEP)

    def read() -> float:
        if is_upstreams(sys._getframe(1)):
            return (next(milliseconds) + 0.5) / 1000  # half: int(1000 * time) is exact whatever the rounding
        return true_time()

    time.time = read
