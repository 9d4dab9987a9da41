"""Turn drawings into parts of a page or into PNG files with their numbers, and label runs in figures."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from dire_plug.files import write_json
from dire_plug.results.figures import INK, LINE, save_figure
from dire_plug.results.report.images import has_images
from dire_plug.results.report.runs import ReportRun, read_run
from dire_plug.store.runs import FinishedRun, RunFolder

METADATA = ("Date", "Creator", "Format", "Type")
"""Keys that matplotlib would write into a drawing; left out, so that the same runs give the same page."""
SIDE = 3.6
"""Width of a panel in inches: as wide as a phone, so that its text stays readable there."""


@dataclass(frozen=True)
class PageFigure:
    """Panels with one caption; without panels the caption says why they are missing.

    Attributes:
        panels: title → drawing; a single panel needs no title.
        numbers: what is drawn, for a table below.
    """

    title: str
    caption: str
    panels: Mapping[str, Markup] = field(default_factory=dict)
    numbers: dict[str, Any] | None = None


def to_svg(figure: Figure, *, name: str, alt: str) -> Markup:
    """Return a figure as an SVG element that scales with its place; its text stays text.

    Args:
        name: unique in the page: identifiers begin with it.
        alt: what the figure shows, in words.
    """
    buffer = io.StringIO()
    # text stays text, and the salt makes identifiers repeatable
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": name, "font.sans-serif": ["DejaVu Sans"]}
    with matplotlib.rc_context(settings):
        figure.savefig(buffer, format="svg", transparent=True, metadata=dict.fromkeys(METADATA))
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text[text.index("<svg") :], flags=re.DOTALL)
    # identifiers of several drawings on one page must differ
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(href="#|url\(#)', rf"\1{name}-", text)
    # the page's colours follow the light or dark mode
    text = text.replace(INK, "var(--ink)").replace(LINE, "var(--line)").replace("'DejaVu Sans'", "system-ui")
    text = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', lambda found: _opening(found[1], alt), text, count=1)
    return Markup(text)


def _opening(box: str, alt: str) -> str:
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {box} {spaces} role="img" aria-label="{Markup.escape(alt)}">'


OF_PAGE = {"var(--ink)": INK, "var(--line)": LINE, "system-ui": "sans-serif"}
"""What a drawing takes from its page → what it has as a file of its own."""


def to_image(pixels: NDArray[np.uint8], *, alt: str, width: int) -> Markup:
    """Return an image as a lossless PNG inside the page, drawn with sharp pixels where it is enlarged.

    Args:
        pixels: [H, W, 4]: red, green, blue and opacity.
        width: in CSS pixels, at most.
    """
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    content = base64.b64encode(buffer.getvalue()).decode()
    return Markup('<img class="pixels" style="width:{}px" src="data:image/png;base64,{}" alt="{}">').format(
        width, content, alt
    )


def save(figure: Figure, path: Path, numbers: dict[str, Any]) -> dict[str, Any]:
    """Write a figure (see `save_figure`), and its numbers as JSON beside it; return them."""
    save_figure(figure, path, dpi=160)
    write_json(path.with_suffix(".json"), numbers)
    return numbers


def listed(words: Sequence[str]) -> str:
    """Return "a, b and c"."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


# The labels of runs in a figure: whatever tells them apart.


GivenRun = ReportRun | FinishedRun | RunFolder
METHOD_AND_ARM, ARM = (0, 1), (1,)
"""Indices of parts of a label."""


def label_runs(runs: Sequence[ReportRun]) -> dict[str, ReportRun]:
    """Return label → run: the arm alone where that is enough, else with all that differs, else the folder's name."""
    labels = [_label_parts(run) for run in runs]
    shared = [len(set(part)) == 1 for part in zip(*labels, strict=True)]
    for candidates in (ARM, METHOD_AND_ARM, range(len(shared))):
        kept = [index for index in candidates if index in ARM or not shared[index]]
        names = [" ".join(parts[index] for index in kept if parts[index]) for parts in labels]
        if len(set(names)) == len(names):
            return dict(zip(names, runs, strict=True))
    return {run.name: run for run in runs}


def _label_parts(run: ReportRun) -> tuple[str, ...]:
    """Return what may tell a run apart, in the order of a label."""
    engine = "" if run.engine == "none" else run.engine
    return run.method, run.arm, f"IPC {run.ipc}", str(run.recipe["name"]), engine, f"seed {run.seed}"


def read_given(runs: Sequence[GivenRun]) -> dict[str, ReportRun]:
    """Return label → run of those that have images, read from their folders where that isn't done yet.

    Raises:
        DirePlugError: a run isn't finished.
    """
    read = [run if isinstance(run, ReportRun) else read_run(run) for run in runs]
    return label_runs([run for run in read if has_images(run)])
