"""Whether the images of a run have collapsed: too heavy a term leaves images that are nothing but small for the term.

Two signs: how many the independent network takes for their class, beside how many real test images it does; and how
long their embeddings in T are, beside those of real images. Each says little by itself, and far off it says enough.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dire_plug import ui
from dire_plug.files import read_json, write_json
from dire_plug.models.checkpoint import load
from dire_plug.stages.artefacts import Networks, name_collapse
from dire_plug.stages.embed import embed_images, ensure_embeddings
from dire_plug.stages.images import ImageSet
from dire_plug.stages.squeeze import accuracy_of, network_file
from dire_plug.store.runs import Run
from dire_plug.training.students import accuracy, in_batches
from dire_plug.training.transforms import plain_view

FILE = "collapse.json"
LEAST_SHARE = 0.5
"""Of the share of real test images that the independent network recognises; below, the run warns. On digits it took .55
to .9 of the images of runs that had not collapsed for their class, at .99 of the real ones."""
LEAST_NORM, MOST_NORM = 0.5, 2.0
"""Of the mean norm of real embeddings; 1 ± .1 in runs that had not collapsed."""


@dataclass(frozen=True)
class CollapseSigns:
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


def check_collapse(run: Run, networks: Networks, images: ImageSet) -> dict[str, Any]:
    """Return the signs of a run's synthesized images, and warn with the weights to lower; kept in the store."""

    def make(folder: Path) -> None:
        write_json(folder / FILE, asdict(_look(run, networks, images)))

    found: dict[str, Any] = read_json(run.store.ensure(name_collapse(run, networks, images.source), make) / FILE)
    if (problem := CollapseSigns(**found).problem) is not None:
        ui.warn(f"the images may have collapsed: {problem}; {_advice(run.regularizers)}")
    return found


def _look(run: Run, networks: Networks, images: ImageSet) -> CollapseSigns:
    real = ensure_embeddings(run, networks.teacher)
    made = embed_images(run, networks.teacher, images.images)
    judge = load(network_file(run, networks.independent), run.device)
    see, batches = plain_view(judge), in_batches(images.images, images.labels, device=run.device)
    return CollapseSigns(
        recognised=accuracy(judge.model, ((see(part), of) for part, of in batches)) / 100,
        recognised_real=accuracy_of(run, networks.independent) / 100,
        norm=float(made.norm(dim=1).mean() / real.values.norm(dim=1).mean()),
        chance=1 / run.classes,
    )


def _advice(regularizers: dict[str, dict[str, Any]]) -> str:
    names = [f"regularizers.{name}.weight" for name in regularizers]
    return f"lower {' and '.join(names)}, or set it to auto" if names else "lower the learning rate of the loop"
