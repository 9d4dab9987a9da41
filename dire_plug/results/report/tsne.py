"""Draw Figure 1: real and condensed images in the plane, by t-SNE of their embeddings in one teacher.

One projection of all: a sample of the real images, balanced over the classes, and the condensed images of every run.
It is seeded and starts from the principal components, so the same images give the same picture.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from sklearn.manifold import TSNE
from torch import Tensor

from dire_plug.errors import DirePlugError
from dire_plug.results.figures import INK, MARKERS, REAL, colours, new_figure
from dire_plug.results.report.drawing import SIDE, GivenRun, PageFigure, read_given, save, to_svg
from dire_plug.results.report.embedded import Embedded, embed_runs
from dire_plug.results.report.images import PLANE
from dire_plug.results.report.runs import ReportRun

REAL_POINTS, POINTS = 1500, 500
"""The most real images, and condensed ones of each run, that are projected."""
PERPLEXITY = 30.0
SEED = 0


Points = dict[str, Tensor]
"""Label of a run → its images in the plane, [n, 2]."""


def project(real: Tensor, sets: Mapping[str, Tensor]) -> tuple[Tensor, Points]:
    """Project embeddings, [M, D] and [n, D] each, into one plane: those of real images, and of each run.

    Raises:
        DirePlugError: there are fewer than four points.
    """
    rows = torch.cat([real, *sets.values()])
    if len(rows) < 4:
        raise DirePlugError(f"t-SNE of {len(rows)} images: four are needed at least")
    # t-SNE needs more points than three times the perplexity
    perplexity = min(PERPLEXITY, (len(rows) - 1) / 3)
    model = TSNE(n_components=2, init="pca", perplexity=perplexity, random_state=SEED, method="barnes_hut")
    # in double precision the picture depends less on the machine
    points = torch.from_numpy(model.fit_transform(rows.double().numpy()))
    first, *others = torch.split(points, [len(real), *map(len, sets.values())])
    return first, dict(zip(sets, others, strict=True))


def spread_rows(embedded: Embedded, most: int) -> Tensor:
    """Return at most `most` rows, as many of each class as there is room for, chosen by a fixed seed."""
    generator = torch.Generator().manual_seed(SEED)
    values, labels = embedded
    classes = torch.unique(labels)
    each = max(1, most // len(classes))
    kept = []
    for label in classes:
        rows = (labels == label).nonzero().flatten()
        kept.append(rows[torch.randperm(len(rows), generator=generator)[:each]].sort().values)
    return values[torch.cat(kept)]


def project_samples(sets: Mapping[str, Embedded], real: Embedded) -> tuple[Tensor, Points]:
    """Project a sample of the real images and of each run's.

    Raises:
        DirePlugError: there are fewer than four.
    """
    samples = {name: spread_rows(found, POINTS) for name, found in sets.items()}
    return project(spread_rows(real, REAL_POINTS), samples)


def draw_tsne(runs: Sequence[GivenRun], path: Path, *, device: str = "cpu") -> dict[str, Any]:
    """Draw Figure 1 as a PNG file, a panel a run, and write the points beside it as JSON; return those.

    Raises:
        DirePlugError: a run isn't finished, its images are damaged, or its teacher isn't in the store.
    """
    named = read_given(runs)
    real, points = project_samples(*embed_runs(named, device=device))
    figure, panels = new_figure(SIDE * len(named), SIDE, panels=len(named))
    for axes, name in zip(panels, named, strict=True):
        _scatter(axes, real, points, name, named)
        axes.set_title(name, color=INK)
    return save(figure, path, _numbers(real, points, named))


def tsne_figure(
    runs: Mapping[str, ReportRun], sets: Mapping[str, Embedded], real: Embedded, *, name: str
) -> PageFigure:
    """Return Figure 1 for a page; `name` begins its identifiers.

    Raises:
        DirePlugError: there are fewer than four images.
    """
    plane, points = project_samples(sets, real)
    panels = {}
    for number, (label, run) in enumerate(runs.items()):
        figure, (axes,) = new_figure(SIDE, SIDE)
        _scatter(axes, plane, points, label, runs)
        alt = _alt(len(plane), len(points[label]), label, run)
        panels[label] = to_svg(figure, name=f"{name}-{number}", alt=alt)
    caption = (
        f"{len(plane):,} real training images (pale) and the condensed images of each arm, in one t-SNE of "
        "their embeddings in the teacher: perplexity "
        f"{PERPLEXITY:g}, seed {SEED}, first synthesis. Distances between far groups mean little in such a picture; "
        "the coverage in the table is the number to trust."
    )
    return PageFigure(PLANE, caption, panels)


def _scatter(axes: Axes, real: Tensor, points: Points, label: str, runs: Mapping[str, ReportRun]) -> None:
    mine, arm = points[label], runs[label].arm
    # as an image: so many points as single elements make a page heavy
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
    # distances in both directions are comparable in t-SNE
    axes.set_aspect("equal", adjustable="datalim")


def _alt(real: int, condensed: int, label: str, run: ReportRun) -> str:
    coverage = run.metrics["diversity"]["T"].get("coverage")
    text = f"Scatter plot: {condensed} condensed images of {label} among {real} real"
    return f"{text} ones; coverage in T {100 * coverage:.1f} %." if coverage is not None else f"{text} ones."


def _numbers(real: Tensor, points: Points, runs: Mapping[str, ReportRun]) -> dict[str, Any]:
    return {
        "figure": "t-SNE of embeddings in the teacher",
        "perplexity": PERPLEXITY,
        "seed": SEED,
        "real": _rounded(real),
        "runs": {
            name: {
                "run": run.name,
                "coverage": run.metrics["diversity"]["T"].get("coverage"),
                "points": _rounded(points[name]),
            }
            for name, run in runs.items()
        },
    }


def _rounded(points: Tensor) -> list[list[float]]:
    return [[round(value, 3) for value in point] for point in points.tolist()]
