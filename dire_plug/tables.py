"""Lay out tables for the terminal so that no number is ever cut, however narrow the terminal is.

A table that is too wide is shown as several, one below another, each with the labels again. Words of prose and labels
are wrapped first, where that keeps it one. Nothing is cut off: where not even one column fits beside its labels, the
terminal breaks the line.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table as RichTable
from rich.text import Text

LONG_WORD = 24
"""Longer words of prose, such as paths, may be broken on a terminal; numbers are shorter."""
PIPED = 120
"""The width of a table in a file or a pipe, unless COLUMNS is set, or it needs more to be one, with whole words."""
EDGES, GAP = 3, 2
"""Columns of the terminal beside a table, and between two of its columns."""


MINUS = "−"
"""The minus sign of every text that a person reads: as wide as a plus, and no hyphen."""
_HYPHEN = re.compile(r"(?<![\w.])-(?=\d)")


def with_minus(cell: str) -> str:
    """Return a cell whose negative numbers have the minus sign instead of a hyphen."""
    return _HYPHEN.sub(MINUS, cell)


@dataclass(frozen=True)
class Row:
    """A row: its cells, labels first, the places of the best ones, and whether a line follows."""

    cells: tuple[str, ...]
    best: frozenset[int]
    ends_section: bool


@dataclass
class _Column:
    header: str
    kind: Literal["label", "number", "prose"]
    cells: list[str] = field(default_factory=list)

    @property
    def natural(self) -> int:
        """The width at which no line is wrapped."""
        return _longest(line for text in (self.header, *self.cells) for line in text.splitlines())

    @property
    def least(self) -> int:
        """The least width at which no number and no word is broken, except long words of prose."""
        return min(self.whole, max(_longest(self.header.split()), LONG_WORD)) if self.kind == "prose" else self.whole

    @property
    def whole(self) -> int:
        """The least width at which no number and no word is broken."""
        header = _longest(self.header.split())
        if self.kind == "number":
            return max(header, _longest(self.cells))
        return max(header, _longest(word for cell in self.cells for word in cell.split()))


class Table:
    """A table of plain text, without markup."""

    def __init__(self, *labels: str, title: str = "", title_style: str = "italic") -> None:
        """Begin a table with the columns that name its rows; each part of a split table repeats them."""
        self.title, self.title_style = title, title_style
        self._columns = [_Column(label, "label") for label in labels]
        self._labels = len(labels)
        self._styles: list[str] = []
        self._best: list[frozenset[int]] = []
        self._sections: set[int] = set()

    def add_numbers(self, *headers: str) -> None:
        """Add columns, aligned to the right, whose cells are never wrapped."""
        self._columns += [_Column(header, "number") for header in headers]

    def add_prose(self, *headers: str) -> None:
        """Add columns, aligned to the left, whose cells may be wrapped."""
        self._columns += [_Column(header, "prose") for header in headers]

    def add_row(self, *cells: str, style: str = "", best: Collection[int] = ()) -> None:
        """Add a row; missing cells are empty.

        Args:
            best: the places of the best values, counted after the labels; they are shown bold.
        """
        if len(cells) > len(self._columns):
            raise ValueError(f"{len(cells)} cells for {len(self._columns)} columns")
        # file names may hold bytes that aren't UTF-8, which no terminal prints
        cells = tuple(cell.encode("utf-8", "backslashreplace").decode() for cell in cells)
        padded = [*cells, *[""] * (len(self._columns) - len(cells))]
        for column, cell in zip(self._columns, padded, strict=True):
            column.cells.append(with_minus(cell) if column.kind == "number" else cell)
        self._styles.append(style)
        self._best.append(frozenset(self._labels + place for place in best))

    def add_section(self) -> None:
        """Separate the last row from the next one by a line."""
        self._sections.add(len(self._styles) - 1)

    # What other forms of the table are made of: see `table_files`.

    @property
    def headers(self) -> tuple[str, ...]:
        """The headings of all columns, labels first."""
        return tuple(column.header for column in self._columns)

    @property
    def rows(self) -> list[Row]:
        """The rows in their order."""
        cells = zip(*(column.cells for column in self._columns), strict=True)
        return [Row(tuple(row), self._best[at], at in self._sections) for at, row in enumerate(cells)]

    def is_number(self, column: int) -> bool:
        """Return whether a column holds numbers."""
        return self._columns[column].kind == "number"

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        """Return the least width that the table can use, and the one in which it is whole."""
        least = max((column.least for column in self._columns), default=0) + EDGES
        natural = max(_total([column.natural for column in self._columns]), cell_len(self.title))
        return Measurement(min(least, natural), natural)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render the title and one table, or several where the width is too small for one."""
        if self.title:
            yield Text(self.title, style=self.title_style)
        width = options.max_width
        if not options.is_terminal:
            columns = os.environ.get("COLUMNS", "")
            width = min(width, max(int(columns) if columns.isdecimal() else PIPED, _total(self._whole())))
        least = self._least(width)
        for chosen in self._split(least, width):
            widths = self._widen(chosen, [least[number] for number in chosen], width)
            wide = max(width, _total(widths))  # else rich would make columns narrower
            yield from console.render(self._part(chosen, widths), options.update(width=wide))

    def _whole(self) -> list[int]:
        """Return the least width of each column at which no label is wrapped and no word broken."""
        labels, others = self._columns[: self._labels], self._columns[self._labels :]
        return [*(column.natural for column in labels), *(column.whole for column in others)]

    def _least(self, width: int) -> list[int]:
        """Return the least width of each column; labels are wrapped only if else the table, or a part, doesn't fit."""
        if _total(whole := self._whole()) <= width:
            return whole
        least = [column.least for column in self._columns]
        labels, others = whole[: self._labels], least[self._labels :]
        if _total(least) <= width < _total([*labels, *others]):
            return least
        return [*labels, *others] if _total([*labels, max(others, default=0)]) <= width else least

    def _split(self, least: Sequence[int], width: int) -> list[list[int]]:
        """Return the numbers of the columns of each part, labels first: few parts, and none much wider than another."""
        parts = self._fill(least, width)
        # at a smaller width, the same number of parts is more even
        for narrower in range(width - 1, 0, -1) if len(parts) > 1 else ():
            if len(found := self._fill(least, narrower)) > len(parts):
                break
            parts = found
        return parts

    def _fill(self, least: Sequence[int], width: int) -> list[list[int]]:
        """Return the numbers of the columns of each part: the labels, and as many others as fit."""
        labels = list(range(self._labels))
        parts: list[list[int]] = []
        for number in range(self._labels, len(self._columns)):
            if parts and _total([least[one] for one in (*parts[-1], number)]) <= width:
                parts[-1].append(number)
            else:
                parts.append([*labels, number])
        return parts or [labels]

    def _widen(self, chosen: Sequence[int], widths: list[int], width: int) -> list[int]:
        """Share out the remaining width: to headers of numbers first, evenly; then to prose, first what needs least."""
        lacks = {at: self._columns[number].natural - widths[at] for at, number in enumerate(chosen)}
        prose = [at for at in lacks if self._columns[chosen[at]].kind == "prose"]
        narrow = [at for at in lacks if at not in prose]
        while narrow and _total(widths) < width:
            narrow = [at for at in narrow if widths[at] < self._columns[chosen[at]].natural]
            for at in narrow[: width - _total(widths)]:
                widths[at] += 1
        for at in sorted(prose, key=lambda at: lacks[at]):
            widths[at] += max(0, min(lacks[at], width - _total(widths)))
        return widths

    def _part(self, chosen: Sequence[int], widths: Sequence[int]) -> RichTable:
        table = RichTable(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        for number, width in zip(chosen, widths, strict=True):
            column = self._columns[number]
            table.add_column(
                Text(column.header),
                justify="right" if column.kind == "number" else "left",
                width=width,
                overflow="fold",
            )
        for row, style in enumerate(self._styles):
            cells = [
                Text(self._columns[number].cells[row], style="bold" if number in self._best[row] else "")
                for number in chosen
            ]
            table.add_row(*cells, style=style or None, end_section=row in self._sections)
        return table


def _longest(texts: Iterable[str]) -> int:
    return max(map(cell_len, texts), default=0)


def _total(widths: Sequence[int]) -> int:
    """Return the width of a table whose columns have these."""
    return sum(widths) + GAP * max(0, len(widths) - 1) + EDGES


@dataclass(frozen=True)
class Tables:
    """Tables and lines of text that belong together, with a title above and notes below."""

    parts: tuple[RenderableType, ...]
    title: str
    notes: tuple[str, ...]
    bold: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render a bold title, the parts, dim notes, and what bold says where there is bold."""
        if self.title:
            yield Text(self.title, style="bold")
        yield from self.parts
        # a file, a pipe and a terminal without styles have none
        bold = [self.bold] if self.bold and console.color_system is not None else []
        yield from (Text(f"  {note}", style="dim") for note in [*self.notes, *bold])


def with_notes(*parts: RenderableType, notes: Iterable[str], title: str = "", bold: str = "") -> Tables:
    """Put a bold title above tables, and dim notes below them; `bold` says what bold cells are."""
    return Tables(parts, title, tuple(notes), bold)
