"""What all figures share: colours of arms, and matplotlib's drawings as parts of a page or as PNG files."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from dire_plug.files import make_folder, write_json
from dire_plug.pipeline import FinishedRun
from dire_plug.results.report.images import has_images
from dire_plug.results.report.runs import ReportRun, read_run
from dire_plug.store.runs import RunFolder

COLOURS = {"baseline": "#d9722e", "control": "#8f7bc0", "dire": "#12928a", "random": "#b08d1e", "full": "#7a828c"}
"""Arm → colour; in the middle of the scale of lightness, so that they can be told apart on white and on black."""
OTHERS = ("#b5507a", "#4f86c6", "#6a9f58", "#a3673f")
"""Colours of other arms, in turn."""
REAL = "#9fb3c8"
"""The colour of real images that are in the background."""
INK, LINE = "#24292e", "#d0d6dc"
"""Text and rules; a page puts its own colours in their place, for light and dark."""
MARKERS = {"baseline": "o", "control": "s", "dire": "^", "random": "D"}
"""Arm → mark, so that arms can be told apart without colours."""
METADATA = ("Date", "Creator", "Format", "Type")
"""What matplotlib would write into a drawing; left out, so that the same runs give the same page."""
SIDE = 3.6
"""Width of a panel in inches: as wide as a phone, so that its text stays readable there."""


@dataclass(frozen=True)
class Panel:
    """A drawing as part of a page, and what it shows in words, for those who can't see it."""

    drawing: Markup
    alt: str
    title: str = ""


@dataclass(frozen=True)
class PageFigure:
    """Panels with one caption; without panels the caption says why they are missing."""

    title: str
    caption: str
    panels: tuple[Panel, ...] = ()
    numbers: dict[str, Any] | None = None


def colour(arm: str, arms: Iterable[str]) -> str:
    """Return the colour of an arm among `arms`."""
    others = list(dict.fromkeys(one for one in arms if one not in COLOURS))
    return COLOURS.get(arm) or OTHERS[others.index(arm) % len(OTHERS)]


def colours(sets: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    """Return label → colour of sets, given as label → (method, arm): the arm's, and another for a second method's."""
    arms = [arm for _, arm in sets.values()]
    taken: dict[tuple[str, str], str] = {}
    for one in dict.fromkeys(sets.values()):
        own = colour(one[1], arms)
        free = [other for other in (own, *OTHERS, *COLOURS.values()) if other not in taken.values()]
        taken[one] = free[0] if free else own
    return {label: taken[one] for label, one in sets.items()}


def new_figure(width: float, height: float, *, panels: int = 1) -> tuple[Figure, list[Axes]]:
    """Return an empty figure, in inches, and its panels side by side."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, panels, squeeze=False)[0])


def plain(axes: Axes, *, grid: str | None = "y") -> None:
    """Leave an axes its left and lower spine and faint rules."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.tick_params(color=LINE, labelcolor=INK, labelsize=9)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    axes.set_axisbelow(True)
    if grid is not None:
        axes.grid(axis=grid, color=LINE, linewidth=0.6)  # type: ignore[arg-type]


def to_svg(figure: Figure, *, name: str, alt: str) -> Markup:
    """Return a figure as an SVG element that scales with its place; its text stays text.

    Args:
        name: unique in the page: identifiers begin with it.
        alt: what the figure shows, in words.
    """
    buffer = io.StringIO()
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": name, "font.sans-serif": ["DejaVu Sans"]}
    with matplotlib.rc_context(settings):
        figure.savefig(buffer, format="svg", transparent=True, metadata=dict.fromkeys(METADATA))
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(href="#|url\(#)', rf"\1{name}-", text)
    text = text.replace(INK, "var(--ink)").replace(LINE, "var(--line)").replace("'DejaVu Sans'", "system-ui")
    text = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', lambda found: _opening(found[1], alt), text, count=1)
    return Markup(text)


def _opening(box: str, alt: str) -> str:
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {box} {spaces} role="img" aria-label="{Markup.escape(alt)}">'


def to_image(pixels: Tensor, *, alt: str, width: int) -> Markup:
    """Return an image as a lossless PNG inside the page, drawn with sharp pixels where it is enlarged.

    Args:
        pixels: uint8, [4, H, W]: red, green, blue and opacity.
        width: in CSS pixels, at most.
    """
    buffer = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()).save(buffer, format="PNG", optimize=True)
    content = base64.b64encode(buffer.getvalue()).decode()
    return Markup('<img class="pixels" style="width:{}px" src="data:image/png;base64,{}" alt="{}">').format(
        width, content, alt
    )


def save(figure: Figure, path: Path, numbers: dict[str, Any]) -> dict[str, Any]:
    """Write a figure as PNG, and its numbers as JSON beside it; return them."""
    make_folder(path.parent)
    figure.savefig(path, dpi=160)
    write_json(path.with_suffix(".json"), numbers)
    return numbers


def listed(words: Sequence[str]) -> str:
    """Return "a, b and c"."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


# How runs are called in a figure: by what tells them apart.


GivenRun = ReportRun | FinishedRun | RunFolder
METHOD_AND_ARM, ARM = (0, 1), (1,)
"""Where in what may tell a run apart these stand."""


def label_runs(runs: Sequence[ReportRun]) -> dict[str, ReportRun]:
    """Return label → run: the arm alone where that is enough, else with all that differs, else the folder's name."""
    told = [_tell(run) for run in runs]
    shared = [len(set(part)) == 1 for part in zip(*told, strict=True)]
    for places in (ARM, METHOD_AND_ARM, range(len(shared))):
        kept = [place for place in places if place in ARM or not shared[place]]
        names = [" ".join(part[place] for place in kept if part[place]) for part in told]
        if len(set(names)) == len(names):
            return dict(zip(names, runs, strict=True))
    return {run.name: run for run in runs}


def _tell(run: ReportRun) -> tuple[str, ...]:
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
