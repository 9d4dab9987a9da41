"""Check whether a run's images have collapsed: too heavy a term leaves degenerate images that only minimise the term.

Two measures: the share of images that the independent network recognises, beside that of real test images; and the
norm of their embeddings in T, beside that of real images. Small differences say little; large ones say enough.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dire_plug import ui
from dire_plug.files import read_json, write_json
from dire_plug.models.checkpoint import load
from dire_plug.stages.artefacts import Networks, name_collapse
from dire_plug.stages.embed import embed_images, ensure_embeddings, make_all_embeddings
from dire_plug.stages.images import ImageSet
from dire_plug.stages.squeeze import accuracy_of, network_file
from dire_plug.store.runs import Run
from dire_plug.training.students import accuracy, in_batches
from dire_plug.training.transforms import eval_transform

FILE = "collapse.json"
LEAST_SHARE = 0.5
"""Of the share of real test images that the independent network recognises; below, the run warns. On digits it took .55
to .9 of the images of runs that had not collapsed for their class, at .99 of the real ones."""
LEAST_NORM, MOST_NORM = 0.5, 2.0
"""Of the mean norm of real embeddings; 1 ± .1 in runs that had not collapsed."""


@dataclass(frozen=True)
class CollapseReport:
    """The measures of a run's images, as collapse.json and metrics.json keep them.

    Attributes:
        recognised: the share of images whose class the independent network predicts.
        recognised_real: the same of real test images.
        norm: the mean norm of their embeddings in T, in units of that of real training images.
        chance: the share that guessing would get.
    """

    recognised: float
    recognised_real: float
    norm: float
    chance: float

    @property
    def problem(self) -> str | None:
        """The problem in words; None where there is none, or the independent network is too weak to tell."""
        # a judge that hardly beats guessing can't tell collapsed images from others
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
    """Return the report on a run's synthesized images, kept in the store; warn where they collapsed."""

    def make(folder: Path) -> None:
        write_json(folder / FILE, asdict(_inspect(run, networks, images)))

    found: dict[str, Any] = read_json(run.store.ensure(name_collapse(run, networks, images.source), make) / FILE)
    if (problem := CollapseReport(**found).problem) is not None:
        ui.warn(f"the images may have collapsed: {problem}; {_advice(run.regularizers)}")
    return found


def _inspect(run: Run, networks: Networks, images: ImageSet) -> CollapseReport:
    # the metrics will ask for both
    make_all_embeddings(run, [networks.teacher, networks.independent])
    real = ensure_embeddings(run, networks.teacher)
    made = embed_images(run, networks.teacher, images.images)
    judge = load(network_file(run, networks.independent), run.device)
    transform, batches = eval_transform(judge), in_batches(images.images, images.labels, device=run.device)
    return CollapseReport(
        recognised=accuracy(judge.model, ((transform(part), labels) for part, labels in batches)) / 100,
        recognised_real=accuracy_of(run, networks.independent) / 100,
        norm=float(made.norm(dim=1).mean() / real.values.norm(dim=1).mean()),
        chance=1 / run.classes,
    )


def _advice(regularizers: dict[str, dict[str, Any]]) -> str:
    names = [f"regularizers.{name}.weight" for name in regularizers]
    if not names:
        return "take more iterations, or a lower learning rate of the loop"
    return f"lower {' and '.join(names)}, or set it to auto"
