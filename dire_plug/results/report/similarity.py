"""Draw Figure 2: the intra-class cosine similarity of each class, in one teacher; lower is more diverse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes

from dire_plug.metrics import intra_class_similarity
from dire_plug.results.figures import INK, MARKERS, colours, new_figure, plain
from dire_plug.results.figures import REAL as REAL_COLOUR
from dire_plug.results.report.drawing import GivenRun, PageFigure, listed, read_given, save, to_svg
from dire_plug.results.report.embedded import Embedded, embed_runs
from dire_plug.results.report.images import CLASSES, SIMILARITY, count_classes
from dire_plug.results.report.runs import ReportRun

NAMED = 10
"""Classes whose names fit below the axis."""
REAL = "all real images"


def class_similarities(sets: Mapping[str, Embedded], real: Embedded) -> dict[str, dict[int, float]]:
    """Return label of a run → class → mean cosine similarity between its images.

    Real training images are there too, under `REAL`, of the classes of the runs: more aren't embedded where there are
    many. A class with one image has no value.
    """
    found = {name: _by_class(embedded) for name, embedded in sets.items()}
    labels = {int(label) for _, of in sets.values() for label in torch.unique(of)}
    return {**found, REAL: {label: value for label, value in _by_class(real).items() if label in labels}}


def draw_class_similarity(runs: Sequence[GivenRun], path: Path, *, device: str = "cpu") -> dict[str, Any]:
    """Draw Figure 2 as a PNG file, and write its numbers beside it as JSON; return those.

    Raises:
        DirePlugError: a run isn't finished, its images are damaged, or its teacher isn't in the store.
    """
    named = read_given(runs)
    found = class_similarities(*embed_runs(named, device=device))
    figure, (axes,) = new_figure(7.2, 3.4)
    _draw(axes, found, named)
    return save(figure, path, _numbers(found, named))


def similarity_figure(
    runs: Mapping[str, ReportRun], sets: Mapping[str, Embedded], real: Embedded, *, name: str
) -> PageFigure:
    """Return Figure 2 for a page, with its numbers; `name` begins its identifiers."""
    shown = {one: values for one, values in class_similarities(sets, real).items() if values}
    if len(shown) < 2:
        return PageFigure(SIMILARITY, "This figure is missing: a class has one image, so there is no pair to compare.")
    figure, (axes,) = new_figure(5.0, 3.2)
    _draw(axes, shown, runs)
    caption = (
        "Mean cosine similarity between the images of a class in the teacher's embedding, first synthesis; lower is "
        f"more diverse. Classes are in the order of {next(iter(shown))}'s values."
    )
    if count_classes(next(iter(runs.values()))) > CLASSES:
        caption += f" {CLASSES} classes, evenly spaced, are shown."
    return PageFigure(SIMILARITY, caption, {"": to_svg(figure, name=name, alt=_alt(shown))}, _numbers(shown, runs))


def _by_class(embedded: Embedded) -> dict[int, float]:
    _, labels = embedded
    values = intra_class_similarity(*embedded).tolist()
    return {
        label: value
        for label, value in zip(torch.unique(labels).tolist(), values, strict=True)
        if value == value  # NaN of a class with one image
    }


def _draw(axes: Axes, found: Mapping[str, Mapping[int, float]], runs: Mapping[str, ReportRun]) -> None:
    order = _order(found)
    # marks and names only where there is room
    few, tints = len(order) <= NAMED, colours({label: (run.method, run.arm) for label, run in runs.items()})
    for name, values in found.items():
        arm = runs[name].arm if name in runs else REAL
        axes.plot(
            range(len(order)),
            [values.get(label, float("nan")) for label in order],
            marker=(MARKERS.get(arm, "o") if few else ""),
            markersize=4.5,
            linewidth=1.4,
            color=tints.get(name, REAL_COLOUR),
            linestyle=(0, (2, 2)) if name == REAL else "-",
            label=name,
        )
    plain(axes)
    first = next(iter(runs.values()))
    names = [first.class_name(label) for label in order] if few else []
    # longer names would overlap
    axes.set_xticks(range(len(names)), names, rotation=0 if max(map(len, names), default=0) < 4 else 45)
    axes.set_xlabel("class" if few else f"{len(order)} classes, sorted", fontsize=9)
    axes.set_ylabel("cosine similarity", fontsize=9)
    axes.figure.legend(loc="outside upper center", ncols=3, fontsize=9, frameon=False, labelcolor=INK)


def _order(found: Mapping[str, Mapping[int, float]]) -> list[int]:
    """Return the classes by the first run's values, ascending."""
    first = next(iter(found.values()))
    return sorted(first, key=lambda label: first[label])


def _means(found: Mapping[str, Mapping[int, float]]) -> dict[str, float]:
    return {name: sum(values.values()) / len(values) for name, values in found.items() if values}


def _alt(found: Mapping[str, Mapping[int, float]]) -> str:
    means = [f"{name} {mean:.3f}" for name, mean in _means(found).items()]
    text = f"Line plot over {len(_order(found))} classes; means: {listed(means)}."
    if {"dire", "control"} <= found.keys():
        shared = found["dire"].keys() & found["control"].keys()
        lower = sum(found["dire"][label] < found["control"][label] for label in shared)
        text += f" dire is lower than control in {lower} of {len(shared)} classes."
    return text


def _numbers(found: Mapping[str, Mapping[int, float]], runs: Mapping[str, ReportRun]) -> dict[str, Any]:
    first = next(iter(runs.values()))
    return {
        "figure": "intra-class cosine similarity in the teacher",
        "runs": {name: run.name for name, run in runs.items()},
        "mean": _means(found),
        "classes": {
            first.class_name(label): {name: values.get(label) for name, values in found.items()}
            for label in _order(found)
        },
    }
