"""What every stage of one run receives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dire_plug.recipe.model import Recipe
from dire_plug.types import Adapter, Plan, Script

if TYPE_CHECKING:
    import torch

    from dire_plug.data import Dataset


LOSSES = "losses.json"
"""In the run's folder: upstream's loss and each term, step by step: see `synthesis.recording`."""
WHITENING = "whitening.safetensors"
"""In the run's folder: the ZCA transform, where the loop's images are whitened."""


@dataclass(frozen=True)
class Job:
    """One arm of one recipe with one seed.

    Attributes:
        recipe: the recipe as resolved for this arm.
        arm: baseline, control, dire, random, …
        regularizers: plugin name → its settings; empty without a term.
        adapter: the method's adapter.
        dataset: the real images.
        seed: of everything random in this run.
        device: where networks run.
        engine: who synthesizes; `none` where images are real ones.
        folder: the run directory.
        cache: the folder of results that runs share.
        offline: whether the network may not be touched.
        accelerate: whether what changes no bit of the images may be left out of the loop.
    """

    recipe: Recipe
    arm: str
    regularizers: dict[str, dict[str, object]]
    adapter: Adapter
    dataset: Dataset
    seed: int
    device: torch.device
    engine: Literal["upstream", "native", "none"]
    folder: Path
    cache: Path
    offline: bool = False
    accelerate: bool = False

    @property
    def script(self) -> Script:
        """The script that the recipe names."""
        return self.adapter.scripts[self.recipe.recover.script]

    @property
    def plan(self) -> Plan:
        """Which images each batch of the synthesis holds."""
        return self.adapter.plan(self.recipe.recover, classes=self.classes, ipc=self.recipe.ipc)

    @property
    def classes(self) -> int:
        """The number of classes of the dataset."""
        return len(self.dataset.classes)
