"""Draw with matplotlib: the colours and marks of arms, empty figures and their axes, files."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dire_plug.errors import DirePlugError
from dire_plug.files import make_folder

COLOURS = {"baseline": "#d9722e", "control": "#8f7bc0", "dire": "#12928a", "random": "#b08d1e", "full": "#7a828c"}
"""Arm → colour; of medium lightness, so that they can be told apart on white and on black."""
OTHERS = ("#b5507a", "#4f86c6", "#6a9f58", "#a3673f")
"""Colours of other arms, in this order."""
REAL = "#9fb3c8"
"""The colour of real images in the background."""
INK, LINE = "#24292e", "#d0d6dc"
"""Text and rules; a page replaces them with its own colours, for light and dark."""
MARKERS = {"baseline": "o", "control": "s", "dire": "^", "random": "D"}
"""Arm → mark, so that arms can be told apart without colours."""


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
        # an arm keeps its colour where no second method has taken it
        free = [other for other in (own, *OTHERS, *COLOURS.values()) if other not in taken.values()]
        taken[one] = free[0] if free else own  # more sets than colours
    return {label: taken[one] for label, one in sets.items()}


class ShownFigure(Figure):
    """A figure that a notebook shows by itself, without pyplot."""

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=100)
        return buffer.getvalue()


def new_figure(
    width: float, height: float, *, rows: int = 1, panels: int = 1, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """Return an empty figure, in inches, and the axes of its panels, row by row.

    It has a canvas of its own instead of one of pyplot's, which would keep every figure and may want a display.
    """
    figure = ShownFigure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, panels, squeeze=False, sharey=sharey).flat)


def plain(axes: Axes, *, grid: str | None = "y") -> None:
    """Leave axes their left and lower spine and faint rules."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.tick_params(color=LINE, labelcolor=INK, labelsize=9)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    axes.set_axisbelow(True)
    if grid is not None:
        axes.grid(axis=grid, color=LINE, linewidth=0.6)  # type: ignore[arg-type]


FORMATS = (".png", ".svg", ".pdf")
"""The suffixes of figures."""


def save_figure(figure: Figure, path: Path, *, dpi: int) -> None:
    """Write a figure to a file, in the format of its suffix; beside a PNG also as SVG and PDF. Make its folder.

    The same figure gives the same bytes, and its fonts can be searched and embedded (no Type 3, which journals reject).

    Raises:
        DirePlugError: the suffix is none of `FORMATS`.
    """
    if path.suffix not in FORMATS:
        raise DirePlugError(f"{path}: figures are written to {', '.join(FORMATS)} files; end its name in one of these")
    make_folder(path.parent)
    settings: Any = {"pdf.fonttype": 42, "svg.hashsalt": path.stem}
    dates: dict[str, dict[str, None]] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}
    with matplotlib.rc_context(settings):
        for suffix in FORMATS if path.suffix == ".png" else (path.suffix,):
            figure.savefig(path.with_suffix(suffix), dpi=dpi, metadata=dates.get(suffix))
