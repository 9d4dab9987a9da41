"""Figure 1: real and condensed images in the plane, by t-SNE of their embeddings in one teacher.

One projection of all: a sample of the real images, balanced over the classes, and the condensed images of every run.
It is seeded and starts from the principal components, so the same images give the same picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from sklearn.manifold import TSNE
from torch import Tensor

from dire_plug.errors import DirePlugError
from dire_plug.results.figures import INK, MARKERS, REAL, colours, new_figure
from dire_plug.results.report.drawing import SIDE, GivenRun, PageFigure, Panel, read_given, save, to_svg
from dire_plug.results.report.embedded import Embedded, Space, embed_runs
from dire_plug.results.report.runs import ReportRun

REAL_POINTS, POINTS = 1500, 500
"""Real images, and condensed ones of each run, that are projected at most."""
TITLE = "Real and condensed images by t-SNE"
PERPLEXITY = 30.0
SEED = 0


@dataclass(frozen=True)
class Projection:
    """Points in the plane: [n, 2] of real images, and of each run's by its label."""

    real: Tensor
    runs: dict[str, Tensor]


def project(real: Tensor, sets: Mapping[str, Tensor]) -> Projection:
    """Project embeddings, [M, D] and [n, D] each, into one plane.

    Raises:
        DirePlugError: there are fewer than four points.
    """
    rows = torch.cat([real, *sets.values()])
    if len(rows) < 4:
        raise DirePlugError(f"t-SNE of {len(rows)} images: four are needed at least")
    perplexity = min(PERPLEXITY, (len(rows) - 1) / 3)
    model = TSNE(n_components=2, init="pca", perplexity=perplexity, random_state=SEED, method="barnes_hut")
    points = torch.from_numpy(model.fit_transform(rows.double().numpy()))
    first, *others = torch.split(points, [len(real), *map(len, sets.values())])
    return Projection(first, dict(zip(sets, others, strict=True)))


def spread_rows(embedded: Embedded, most: int) -> Tensor:
    """Return at most `most` rows, as many of each class as there is room for, chosen by a fixed seed."""
    generator = torch.Generator().manual_seed(SEED)
    classes = torch.unique(embedded.labels)
    each = max(1, most // len(classes))
    kept = []
    for label in classes:
        rows = (embedded.labels == label).nonzero().flatten()
        kept.append(rows[torch.randperm(len(rows), generator=generator)[:each]].sort().values)
    return embedded.values[torch.cat(kept)]


def project_space(space: Space) -> Projection:
    """Project a sample of the real images and of each run's.

    Raises:
        DirePlugError: there are fewer than four.
    """
    sets = {name: spread_rows(found, POINTS) for name, found in space.sets.items()}
    return project(spread_rows(space.real, REAL_POINTS), sets)


def draw_tsne(runs: Sequence[GivenRun], path: Path, *, device: str = "cpu") -> dict[str, Any]:
    """Draw Figure 1 as a PNG file, a panel a run, and write the points beside it as JSON; return those.

    Raises:
        DirePlugError: a run isn't finished, its images are damaged, or its teacher isn't in the cache.
    """
    named = read_given(runs)
    projection = project_space(embed_runs(named, device=device))
    figure, panels = new_figure(SIDE * len(named), SIDE, panels=len(named))
    for axes, name in zip(panels, named, strict=True):
        _scatter(axes, projection, name, named)
        axes.set_title(name, color=INK)
    return save(figure, path, _numbers(projection, named))


def tsne_figure(runs: Mapping[str, ReportRun], space: Space, *, name: str) -> PageFigure:
    """Return Figure 1 for a page; `name` begins its identifiers.

    Raises:
        DirePlugError: there are fewer than four images.
    """
    projection = project_space(space)
    panels = []
    for number, (label, run) in enumerate(runs.items()):
        figure, (axes,) = new_figure(SIDE, SIDE)
        _scatter(axes, projection, label, runs)
        alt = _alt(projection, label, run)
        panels.append(Panel(to_svg(figure, name=f"{name}-{number}", alt=alt), alt, label))
    caption = (
        f"{len(projection.real):,} real training images (pale) and the condensed images of each arm, in one t-SNE of "
        "their embeddings in the teacher: perplexity "
        f"{PERPLEXITY:g}, seed {SEED}, first synthesis. Distances between far groups mean little in such a picture; "
        "the coverage in the table is the number to trust."
    )
    return PageFigure(TITLE, caption, tuple(panels))


def _scatter(axes: Axes, projection: Projection, label: str, runs: Mapping[str, ReportRun]) -> None:
    real, mine, arm = projection.real, projection.runs[label], runs[label].arm
    axes.scatter(real[:, 0], real[:, 1], s=5, color=REAL, alpha=0.55, linewidths=0, rasterized=True)
    axes.scatter(
        mine[:, 0],
        mine[:, 1],
        s=20,
        color=colours({name: (run.method, run.arm) for name, run in runs.items()})[label],
        marker=MARKERS.get(arm, "o"),
        edgecolors="white",
        linewidths=0.4,
    )
    axes.set_axis_off()
    axes.set_aspect("equal", adjustable="datalim")


def _alt(projection: Projection, label: str, run: ReportRun) -> str:
    coverage = run.metrics["diversity"]["T"].get("coverage")
    text = f"Scatter plot: {len(projection.runs[label])} condensed images of {label} among {len(projection.real)} real"
    return f"{text} ones; coverage in T {100 * coverage:.1f} %." if coverage is not None else f"{text} ones."


def _numbers(projection: Projection, runs: Mapping[str, ReportRun]) -> dict[str, Any]:
    return {
        "figure": "t-SNE of embeddings in the teacher",
        "perplexity": PERPLEXITY,
        "seed": SEED,
        "real": _points(projection.real),
        "runs": {
            name: {
                "run": run.name,
                "coverage": run.metrics["diversity"]["T"].get("coverage"),
                "points": _points(projection.runs[name]),
            }
            for name, run in runs.items()
        },
    }


def _points(points: Tensor) -> list[list[float]]:
    return [[round(value, 3) for value in point] for point in points.tolist()]
