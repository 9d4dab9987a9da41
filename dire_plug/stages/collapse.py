"""Whether the images of a run have collapsed: too heavy a term leaves images that are nothing but small for the term.

Two signs: how many the independent network takes for their class, beside how many real test images it does; and how
long their embeddings in T are, beside those of real images. Each says little by itself, and far off it says enough.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dire_plug import ui
from dire_plug.files import read_json, write_json
from dire_plug.stages.embed import embed, embed_images
from dire_plug.stages.job import Job
from dire_plug.stages.squeeze import Teachers

if TYPE_CHECKING:
    from torch import Tensor

FILE = "collapse.json"
LEAST_SHARE = 0.5
"""Of the share of real test images that the independent network recognises; below, the run warns. On digits it took .55
to .9 of the images of runs that had not collapsed for their class, at .99 of the real ones."""
LEAST_NORM, MOST_NORM = 0.5, 2.0
"""Of the mean norm of real embeddings; 1 ± .1 in runs that had not collapsed."""


@dataclass(frozen=True)
class Signs:
    """What was seen of a run's images.

    Attributes:
        recognised: the share that the independent network takes for their class.
        recognised_real: the same of real test images.
        norm: the mean norm of their embeddings in T, in units of that of real training images.
        chance: the share that a guess would get.
    """

    recognised: float
    recognised_real: float
    norm: float
    chance: float

    @property
    def problem(self) -> str | None:
        """What is wrong, in words; None where nothing is, or the network knows too little to tell."""
        if self.recognised_real < 2 * self.chance:
            return None
        if self.recognised < LEAST_SHARE * self.recognised_real:
            return (
                f"the independent network takes {100 * self.recognised:.0f} % of the images for their class, and "
                f"{100 * self.recognised_real:.0f} % of real ones"
            )
        if not LEAST_NORM <= self.norm <= MOST_NORM:
            return f"the images' embeddings are {self.norm:.2g} times as long as those of real ones"
        return None


def look_for_collapse(job: Job, networks: Teachers, images: Tensor, labels: Tensor) -> Signs:
    """Look at a run's images, write what is seen to collapse.json, and warn with the weights to lower.

    Args:
        images: [n, 3, h, w], uint8, or float in [0, 1].
        labels: [n].
    """
    real = embed(job, networks.teacher)
    made = embed_images(networks.teacher, images, device=job.device)
    signs = Signs(
        recognised=_share(networks.independent, job, images, labels),
        recognised_real=read_json(networks.independent.parent / "network.json")["accuracy"] / 100,
        norm=float(made.norm(dim=1).mean() / real.values.norm(dim=1).mean()),
        chance=1 / job.classes,
    )
    write_json(job.folder / FILE, asdict(signs))
    if (problem := signs.problem) is not None:
        ui.warn(f"the images may have collapsed: {problem}; {_advice(job.regularizers)}")
    return signs


def read_signs(folder: Path) -> dict[str, Any] | None:
    """Return what was seen of a run's images; None where nobody looked."""
    path = folder / FILE
    found: dict[str, Any] | None = read_json(path) if path.is_file() else None
    return found


def _advice(regularizers: dict[str, dict[str, object]]) -> str:
    names = [f"regularizers.{name}.weight" for name in regularizers]
    return f"lower {' and '.join(names)}, or set it to auto" if names else "lower the learning rate of the loop"


def _share(network: Path, job: Job, images: Tensor, labels: Tensor) -> float:
    """Return the share of images that a network takes for their class."""
    from dire_plug.models.checkpoint import load
    from dire_plug.protocols.testing import accuracy, in_batches
    from dire_plug.stages.views import plain_view

    loaded = load(network, job.device)
    see, batches = plain_view(loaded), in_batches(images, labels, device=job.device)
    return accuracy(loaded.model, ((see(part), of) for part, of in batches)) / 100
