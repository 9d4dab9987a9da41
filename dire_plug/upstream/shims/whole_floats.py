"""Let `random.randint` take floats that are whole numbers, as Python did until 3.11.

Needed by EDC `recover.py` 34 (CIFAR-10: 35), which draws a seed up to 1e13: since Python 3.12 that is a TypeError.
"""

import random
from typing import SupportsInt


def install(*, device: str) -> None:
    """Replace `random.randint`; what it draws stays the same."""
    original = random.randint

    def randint(a: SupportsInt, b: SupportsInt) -> int:
        if int(a) != a or int(b) != b:
            raise ValueError(f"randint takes whole numbers (are {a}, {b})")
        return original(int(a), int(b))

    random.randint = randint
