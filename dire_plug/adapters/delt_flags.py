"""What a recipe may set of DELT's scripts, in upstream's spelling and with upstream's defaults; what it may not."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from pydantic import Field

from dire_plug.adapters.sre2l_family import FamilyFlags
from dire_plug.api.method import (
    OWNED_DATASET,
    OWNED_DEVICE,
    OWNED_IMAGES,
    OWNED_IPC,
    OWNED_PATHS,
    OWNED_TEACHER,
    Flags,
)

OWNED: Mapping[str, str] = MappingProxyType(
    {
        "exp-name": OWNED_PATHS,
        "syn-data-path": OWNED_PATHS,
        "arch-name": OWNED_TEACHER,
        "arch-path": OWNED_TEACHER,
        "store-best-images": OWNED_IMAGES,
        "init-data-path": "upstream's own selection makes the start images; see `prepare`",
        "ipc": OWNED_IPC,
        "dataset": OWNED_DATASET,
        "input-size": OWNED_DATASET,
        "num-classes": OWNED_DATASET,
        "workers": "images are loaded in the process itself",
        "gpu-device": OWNED_DEVICE,
        "min-iterations": "the published script reads past its rounds where no class of a batch draws all of them",
        "round-lr-reset": "it changes nothing: the published script overwrites the rate in its next line",
    }
)
"""Flag → why a recipe can't set it."""


class RecoverFlags(FamilyFlags):
    """`recover/recover.py`."""

    batch_size: int = Field(default=100, alias="batch-size", ge=1)
    """Images in a batch, class by class."""
    jitter: int = Field(default=32, ge=0)
    use_early_late: bool = Field(default=False, alias="use-early-late")
    """Whether the images of a class join round by round, so that the first are optimised longest."""
    round_iterations: int = Field(default=0, alias="round-iterations", ge=0)
    easy2hard_mode: Literal["step", "linear", "cosine"] = Field(default="cosine", alias="easy2hard-mode")
    """How the least crop falls from the whole image to 8 % of it, until `milestone`."""
    milestone: float = Field(default=0.0, ge=0, le=1)
    """The share of the iterations until which the least crop falls."""


class SelectionFlags(Flags):
    """The section `prepare`: `data_selection.py`, which chooses the start images."""

    selection_criteria: Literal["medium", "top", "min"] = Field(default="medium", alias="selection-criteria")
    """Around the median of the teacher's probability of the true class; the highest; the lowest."""


def round_problems(flags: RecoverFlags) -> list[tuple[str, str]]:
    """Return (dotted key, message) of rounds that the published script can't run."""
    if not flags.use_early_late:
        return []
    if flags.round_iterations == 0:
        return [("recover.flags.round-iterations", "must be given with use-early-late: the length of a round")]
    if flags.iteration % flags.round_iterations:
        message = (
            f"must be a multiple of round-iterations ({flags.round_iterations}) with use-early-late: the published "
            f"script reads past its last round otherwise (is {flags.iteration})"
        )
        return [("recover.flags.iteration", message)]
    return []
