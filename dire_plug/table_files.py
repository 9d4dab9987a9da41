"""Write tables as LaTeX (booktabs), CSV or Markdown files: the suffix decides.

CSV is for programs: a value and its spread stand in two columns, a missing value is empty, the minus sign is that of
the keyboard. The digits are those of the table; JSON has all of them. LaTeX and Markdown are for readers: the best
values are bold, and the notes follow as comments, or as a list.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from rich.console import Group, RenderableType

from dire_plug.errors import DirePlugError
from dire_plug.files import write_atomically
from dire_plug.tables import MINUS, Row, Table, Tables

MISSING = "–"
PLUS_MINUS = " ± "


@dataclass(frozen=True)
class Document:
    """What a command has shown: its tables, each with its caption, and the notes."""

    tables: Sequence[tuple[str, Table]]
    notes: Sequence[str] = ()


def collect(*shown: RenderableType, heading: str = "") -> Document:
    """Return the tables among what was shown, and the notes, each once; a heading begins the captions below it."""
    tables: list[tuple[str, Table]] = []
    notes: list[str] = []
    for one in shown:
        if isinstance(one, Table):
            tables.append((": ".join(filter(None, (heading, one.title))), one))
        elif isinstance(one, Tables | Group):
            inner = (
                collect(*one.parts, heading=one.title or heading)
                if isinstance(one, Tables)
                else collect(*one.renderables, heading=heading)
            )
            tables += inner.tables
            # a file for readers has bold, and CSV no notes
            notes += [*inner.notes, *((*one.notes, one.bold) if isinstance(one, Tables) else ())]
    return Document(tables, tuple(dict.fromkeys(filter(None, notes))))


def to_csv(document: Document) -> str:
    """Return the tables as one CSV text: rows of all, the union of their columns, and, of several, the caption."""
    several = len(document.tables) > 1
    records = []
    for caption, table in document.tables:
        split = _spread_columns(table)
        for row in table.rows:
            record = {"table": caption} if several else {}
            for header, cell in zip(table.headers, row.cells, strict=True):
                value, _, spread = cell.partition(PLUS_MINUS)
                record[header] = _for_programs(value if header in split else cell)
                if header in split:
                    record[f"{header} ±"] = spread
            records.append(record)
    buffer = io.StringIO()
    columns = list(dict.fromkeys(key for record in records for key in record))
    writer = csv.DictWriter(buffer, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return buffer.getvalue()


def _spread_columns(table: Table) -> set[str]:
    return {
        header
        for at, header in enumerate(table.headers)
        if table.is_number(at) and any(PLUS_MINUS in row.cells[at] for row in table.rows)
    }


def _for_programs(cell: str) -> str:
    return "" if cell == MISSING else re.sub(rf"{MINUS}(?=\d)", "-", cell)


def to_html(document: Document) -> str:
    """Return the tables as HTML, for notebooks."""
    parts = []
    for caption, table in document.tables:
        styles = ["right" if table.is_number(at) else "left" for at in range(len(table.headers))]
        headers = zip(styles, table.headers, strict=True)
        head = "".join(f'<th style="text-align:{style}">{escape(one)}</th>' for style, one in headers)
        rows = "".join(
            "<tr>"
            + "".join(
                f'<td style="text-align:{styles[at]}">{_bold(row, at, "<b>{}</b>", escape)}</td>'
                for at in range(len(table.headers))
            )
            + "</tr>"
            for row in table.rows
        )
        parts.append(f"<table><caption>{escape(caption)}</caption><tr>{head}</tr>{rows}</table>")
    if document.notes:
        parts.append("<small>" + "<br>".join(map(escape, document.notes)) + "</small>")
    return "".join(parts)


def to_markdown(document: Document) -> str:
    """Return the tables as Markdown, with the notes as a list."""
    parts = []
    for caption, table in document.tables:
        lines = [f"**{escape_markdown(caption)}**\n"] if caption else []
        rule = ["---:" if table.is_number(at) else "---" for at in range(len(table.headers))]
        cells = [[*map(escape_markdown, table.headers)], rule]
        cells += [[_bold(row, at, "**{}**", escape_markdown) for at in range(len(table.headers))] for row in table.rows]
        parts.append("\n".join([*lines, *(f"| {' | '.join(row)} |" for row in cells)]) + "\n")
    if document.notes:
        parts.append("\n".join(f"- {escape_markdown(note)}" for note in document.notes) + "\n")
    return "\n".join(parts)


def escape_markdown(text: str) -> str:
    """Return text in one line that Markdown shows as it is: no markup, link or cell of a table begins or ends in it."""
    return re.sub(r"([\\|*_<`~$]|&(?=#?\w+;)|\](?=[(\[:]))", r"\\\1", " ".join(text.split()))


SYMBOLS = {
    "−": "-",
    "±": r"\pm",
    "×": r"\times",
    "·": r"\cdot",
    "↑": r"\uparrow",
    "↓": r"\downarrow",
    "→": r"\to",
    "≤": r"\le",
    "≥": r"\ge",
    "²": "^2",
    "λ": r"\lambda",
    "α": r"\alpha",
    "δ": r"\delta",
    "σ": r"\sigma",
    "ε": r"\varepsilon",
    "∞": r"\infty",
}
"""Characters that LaTeX has in mathematics alone."""
ESCAPES = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "–": "--",
    "…": r"\ldots{}",
    "’": "'",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    **{character: f"${command}$" for character, command in SYMBOLS.items()},
}
_NUMBER = re.compile(rf"([+{MINUS}]?\d[\d.,]*)(?: ± (\d[\d.]*))?")


def to_latex(document: Document) -> str:
    """Return the tables as LaTeX: a `table` each, with booktabs' rules."""
    parts = [r"% needs \usepackage{booktabs}"]
    for caption, table in document.tables:
        columns = "".join("r" if table.is_number(at) else "l" for at in range(len(table.headers)))
        lines = [r"\begin{table}[t]", r"  \centering", *([rf"  \caption{{{_latex(caption)}}}"] if caption else [])]
        lines += [rf"  \begin{{tabular}}{{{columns}}}", r"    \toprule"]
        lines += [f"    {_latex_row([_latex(header) for header in table.headers])}", r"    \midrule"]
        for number, row in enumerate(table.rows):
            cells = [_bold(row, at, r"\textbf{{{}}}", _latex, r"$\mathbf{{{}}}$") for at in range(len(table.headers))]
            lines.append(f"    {_latex_row(cells)}")
            if row.ends_section and number + 1 < len(table.rows):
                lines.append(r"    \midrule")
        parts.append("\n".join([*lines, r"    \bottomrule", r"  \end{tabular}", r"\end{table}"]))
    parts += ["\n".join(f"% {note}" for note in document.notes)] if document.notes else []
    return "\n\n".join(parts) + "\n"


def _latex_row(cells: Sequence[str]) -> str:
    return rf"{' & '.join(cells)} \\"


def _latex(text: str) -> str:
    """Return a text as LaTeX; a number with its spread as one formula."""
    if found := _NUMBER.fullmatch(text):
        return f"${_formula(text)}$" if found[2] or text[0] in f"+{MINUS}" else text
    return "".join(ESCAPES.get(character, character) for character in " ".join(text.split()))


def _formula(number: str) -> str:
    return number.replace(MINUS, "-").replace("±", r"\pm")


def _bold(row: Row, at: int, form: str, escape: Callable[[str], str], formula: str | None = None) -> str:
    cell = row.cells[at]
    if at not in row.best:
        return escape(cell)
    if formula is not None and _NUMBER.fullmatch(cell):
        return formula.format(_formula(cell))
    return form.format(escape(cell))


WRITERS: dict[str, Callable[[Document], str]] = {".tex": to_latex, ".csv": to_csv, ".md": to_markdown}
"""Suffix → what writes such a file."""


def check_suffix(path: Path) -> None:
    """Raise for a file of a kind that no table is written to."""
    if path.suffix not in WRITERS:
        raise DirePlugError(f"{path}: tables are written to {', '.join(WRITERS)} files; end its name in one of these")


def write_tables(document: Document, path: Path) -> None:
    """Write tables to a file, whose suffix is one of `WRITERS`.

    Raises:
        DirePlugError: it isn't, or there is no table.
    """
    check_suffix(path)
    if not document.tables:
        raise DirePlugError(f"{path}: this command has shown no table, so there is nothing to write")
    write_atomically(path, WRITERS[path.suffix](document))
