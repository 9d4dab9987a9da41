"""Measure the diversity of a condensed set, from any source, in one or more embeddings."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dire_plug import ui
from dire_plug.errors import DirePlugError, nearest
from dire_plug.measures import read_values, set_measures
from dire_plug.models.architectures import TORCHVISION
from dire_plug.models.pretrained import CLIP, Pretrained, check_pretrained, load_pretrained
from dire_plug.pipeline.request import check_neighbours
from dire_plug.sets.opened import OpenedSet, SetRequest, find_own_source, open_set
from dire_plug.stages.artefacts import Source
from dire_plug.stages.images import ImageSet
from dire_plug.stages.measure import measure_in
from dire_plug.stages.squeeze import missing_networks, squeeze_one
from dire_plug.store.lease import until_kept
from dire_plug.types.artefact import Artefact

OWN = ("teacher", "independent")
"""The embeddings of the recipe's own networks, T and I."""
PUBLISHED = (CLIP, TORCHVISION)
"""How the names of published networks begin."""


@dataclass(frozen=True)
class MeasuredSet:
    """The diversity of one set.

    Attributes:
        recipe: METHOD/NAME, whose networks and real data these are.
        condensed: the set, as `OpenedSet.describe` describes it.
        real: {"dataset", "images", "size"} of the real training set.
        nearest_k: k of the radii.
        diversity: embedding → metrics by name, and under "real" those of as many real test images.
        notes: caveats.
    """

    recipe: str
    condensed: dict[str, Any]
    real: dict[str, Any]
    nearest_k: int
    diversity: dict[str, dict[str, Any]]
    notes: tuple[str, ...]

    @property
    def measures(self) -> dict[str, float]:
        """The values by key, see `dire_plug.measures`; those that weren't computed are left out."""
        return _read_all(self.diversity)

    @property
    def real_reference(self) -> dict[str, float]:
        """Those of as many real test images, by the same keys."""
        return _read_all({name: values["real"] for name, values in self.diversity.items()})

    def to_json(self) -> dict[str, Any]:
        """Return the fields, JSON-like."""
        return {
            "set": self.condensed,
            "real": self.real,
            "recipe": self.recipe,
            "nearest_k": self.nearest_k,
            "measures": self.measures,
            "real_reference": self.real_reference,
            "notes": list(self.notes),
        }


def _read_all(diversity: dict[str, dict[str, Any]]) -> dict[str, float]:
    found: dict[str, float | None] = {}
    for space in diversity:
        found |= read_values({"diversity": diversity}, set_measures(space))
    return {key: value for key, value in found.items() if value is not None}


@until_kept
def measure_set(
    request: SetRequest, *, embeddings: Sequence[str] = OWN, weights: Path | None = None, nearest_k: int | None = None
) -> MeasuredSet:
    """Return the diversity of a set in each embedding, with that of as many real images beside.

    Real embeddings, radii and references are cached; networks of the recipe are trained where the store lacks them.

    Args:
        embeddings: `teacher`, `independent`, `clip`, or `torchvision:<model>`.
        weights: a file of weights for the one published network among them.
        nearest_k: k of the radii; None takes the recipe's.

    Raises:
        DirePlugError: an embedding is unknown or not available; see `open_set` and `stages.measure`.
    """
    names = tuple(dict.fromkeys(embeddings))  # each once
    check_embeddings(names, weights=weights)
    if nearest_k is not None:
        request = replace(request, settings=(*request.settings, f"measure.nearest_k={nearest_k}"))
    opened = open_set(request)
    check_neighbours(opened.run)
    published_first = sorted(names, key=OWN.__contains__)  # a missing one must fail before anything is trained
    networks = {name: _network(opened, name, weights) for name in published_first}
    run, condensed, diversity = opened.run, opened.condensed, {}
    # a run's own images were measured by the run, whose values its source finds again
    source = find_own_source(opened) or Source(digest={"set": condensed.digest})
    images = ImageSet(source, lambda: (condensed.images, condensed.labels), name="set")
    for name in names:
        ui.detail(f"measure: diversity in {name}")
        diversity[name] = measure_in(run, networks[name], images)
    return MeasuredSet(
        recipe=opened.recipe,
        condensed=opened.describe(),
        real={"dataset": run.dataset.name, "images": len(run.dataset.train), "size": run.dataset.size},
        nearest_k=run.recipe.measure.nearest_k,
        diversity=diversity,
        notes=tuple(_notes(opened)),
    )


def check_embeddings(names: Sequence[str], *, weights: Path | None = None) -> None:
    """Raise for unknown embeddings, and for weights that fit none or several of them."""
    published = [name for name in names if name.startswith(PUBLISHED)]
    for name in names:
        if name not in OWN and name not in published:
            known = (*OWN, "clip", "torchvision:resnet50")
            raise DirePlugError(
                f"--embedding {name}: unknown embedding{nearest(name, known)}; "
                f"one of {', '.join(OWN)}, clip, torchvision:MODEL"
            )
    for name in published:
        check_pretrained(name)
    if weights is not None and len(published) != 1:
        raise DirePlugError(
            f"--weights {weights}: belongs to one published network, but {len(published)} are named; "
            "give one --embedding clip or torchvision:MODEL, and --teacher FILE for a teacher"
        )


def _network(opened: OpenedSet, name: str, weights: Path | None) -> Artefact | Pretrained:
    """Return the network that embeds: one of ours, trained where the store lacks it, or a published one."""
    if name in OWN:
        if name in missing_networks(opened.run):
            ui.say(f"measure: {name} of the recipe {opened.recipe} isn't in the store; training it first")
        return squeeze_one(opened.run, name)
    run = opened.run
    return load_pretrained(name, device=run.device, weights=weights, offline=run.request.offline)


def _notes(opened: OpenedSet) -> list[str]:
    run, counts = opened.run, opened.condensed.counts
    lines = [
        f"neighbours: the {run.recipe.measure.nearest_k} nearest of all {len(run.dataset.train):,} real training "
        "images; in the columns per class, of the class's own, and the mean over classes",
        f"real reference: as many real {run.dataset.judged} images, mean over draws; coverage grows with the number of "
        "images",
    ]
    if (limit := run.recipe.dataset.limit) is not None:
        lines.append(f"the recipe takes {limit:,} training images: --set dataset.limit=null takes all")
    if opened.condensed.per_class is None:
        lines.append(
            f"classes hold {min(counts)} to {max(counts)} images, "
            f"the real reference {sum(counts) // len(counts)} of each"
        )
    return lines
