"""The calls of bridge that a loop needs: how each is written, and where it stands."""

import re
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

IMPORT = "from dire_plug import bridge"
CALLS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "watch": ("bridge.watch(NETWORK)", "when the trained network is loaded and frozen"),
        "labels": ("LABELS = bridge.labels(LABELS)", "once a batch, before anything is sized by its labels"),
        "start": ("IMAGES = bridge.start(IMAGES, LABELS)", "when the images are drawn, before their optimiser is made"),
        "loss": (
            "LOSS = bridge.loss(LOSS, images=IMAGES, labels=LABELS, step=STEP)",
            "after the last summand, before `backward`",
        ),
        "step_done": (
            "bridge.step_done(LOSS, images=IMAGES, labels=LABELS, step=STEP)",
            "after the optimiser's step and the clipping",
        ),
        "image_index": (
            "NUMBER = bridge.image_index(NUMBER, PLACE)",
            "where an image is saved, before its number goes into the name",
        ),
    }
)
"""Function → the line, in capitals what the script has names for; where it stands. docs/adding-a-method.md has more."""
_CALL = re.compile(r"\bbridge\.(\w+)\(")


def called(lines: Iterable[str]) -> Iterator[str]:
    """Yield the functions of bridge that inserted lines call."""
    for line in lines:
        yield from _CALL.findall(line)
