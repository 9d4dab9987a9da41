"""Tables: at no width is a number or a word of a header broken, and nothing is left out."""

import io
import re
from typing import Literal

import pytest
from rich.console import Console

from dire_plug.table_files import collect
from dire_plug.tables import Table, with_notes

LABELS = ("control", "dire = auto", "real reference")
HEADERS = ("coverage %", "per class %", "Vendi", "per class", "similarity")


def make_table(title: str = "") -> Table:
    table = Table("arm", title=title)
    table.add_numbers(*HEADERS)
    for row, label in enumerate(LABELS):
        table.add_row(label, *(f"+{row}.{column}2 ± 0.{column}75" for column in range(len(HEADERS))))
    table.add_section()
    table.add_row("dire − control", "-0.020 ± 0.008")
    return table


def printed(table: Table, width: int) -> list[str]:
    """Return the lines that a terminal of so many columns shows; a longer line is broken by it."""
    file = io.StringIO()
    Console(file=file, width=width, color_system=None, markup=False, emoji=False).print(table, crop=False)
    return file.getvalue().splitlines()


@pytest.mark.parametrize("colours", [None, "standard"])
def test_what_bold_says_stands_only_where_there_is_bold(colours: Literal["standard"] | None) -> None:
    shown, file = with_notes(make_table(), notes=["a note"], bold="bold: the best"), io.StringIO()
    Console(file=file, width=200, color_system=colours, force_terminal=True).print(shown)
    assert ("bold: the best" in file.getvalue()) == (colours is not None)
    assert collect(shown).notes == ("a note", "bold: the best")


def cells_of(lines: list[str]) -> list[str]:
    return [cell for line in lines for cell in re.split(r"\s{2,}", line.strip()) if cell]


@pytest.mark.parametrize("width", [20, 30, 40, 56, 72, 79, 80, 81, 90, 120, 200])
def test_every_number_is_whole_and_there_once_at_any_width(width: int) -> None:
    lines = printed(make_table(), width)
    found = re.findall(r"[+−]\d\.\d+ ± \d\.\d+", "\n".join(lines))
    wanted = [f"+{row}.{column}2 ± 0.{column}75" for row in range(len(LABELS)) for column in range(len(HEADERS))]
    assert sorted(found) == sorted([*wanted, "−0.020 ± 0.008"])
    assert max(map(len, lines)) <= max(width, 28), "28 are needed by the widest column beside the shortest labels"
    words = " ".join(lines).split()
    for header in HEADERS:
        assert all(word in words for word in header.split())


def test_where_it_fits_a_table_is_one() -> None:
    assert [line.rstrip() for line in printed(make_table("what it is"), 93)] == [
        "what it is",
        "",
        " arm                 coverage %    per class %          Vendi      per class     similarity",
        f" {'─' * 91}",
        " control          +0.02 ± 0.075  +0.12 ± 0.175  +0.22 ± 0.275  +0.32 ± 0.375  +0.42 ± 0.475",
        " dire = auto      +1.02 ± 0.075  +1.12 ± 0.175  +1.22 ± 0.275  +1.32 ± 0.375  +1.42 ± 0.475",
        " real reference   +2.02 ± 0.075  +2.12 ± 0.175  +2.22 ± 0.275  +2.32 ± 0.375  +2.42 ± 0.475",
        "",
        " dire − control  −0.020 ± 0.008",
        "",
    ]


def test_what_does_not_fit_stands_below_with_the_labels_again() -> None:
    lines = printed(make_table(), 60)
    assert [line.split() for line in lines if line.startswith(" arm")] == [
        ["arm", "coverage", "%"],
        ["arm", "per", "class", "%", "Vendi"],
        ["arm", "per", "class", "similarity"],
    ]
    assert sum(line.startswith(" real reference ") for line in lines) == 3


def test_at_80_columns_a_table_is_one_or_no_column_stands_alone() -> None:
    cells = ("30.8 ± 0.2", "30.8 ± 0.0", "6.84 ± 0.02", "+1.75 ± 0.02", "−0.011 ± 0.076")
    for first, headers in {"1.1 ± 0.0": [[*HEADERS]], "+10.2 ± 13.6": [[*HEADERS[:3]], [*HEADERS[3:]]]}.items():
        table = Table("arm")
        table.add_numbers(*HEADERS)
        table.add_row("real reference", first, *cells[1:])
        lines = printed(table, 80)
        assert max(map(len, lines)) <= 80
        assert "".join(lines).count("real") == len(headers)
        heads = [line.split() for line in lines if line.startswith(" arm")]
        assert [head[-1] for head in heads] == [part[-1].split()[-1] for part in headers]


def test_a_header_is_wrapped_between_words_before_a_table_is_split() -> None:
    table = Table("arm")
    table.add_numbers("accuracy of students, last %", "best on test %")
    table.add_row("dire", "53.0 ± 0.0", "54.0 ± 0.0")
    lines = printed(table, 35)
    assert max(map(len, lines)) <= 35
    assert [line.split() for line in lines if line.strip() and "─" not in line] == [
        ["accuracy", "of"],
        ["students,", "best", "on", "test"],
        ["arm", "last", "%", "%"],
        ["dire", "53.0", "±", "0.0", "54.0", "±", "0.0"],
    ]


def test_prose_is_wrapped_before_a_table_is_split() -> None:
    table = Table("key")
    table.add_prose("value", "source")
    table.add_row("recover.flags.lr", "0.25", "published: the authors' script for this dataset, line by line")
    lines = printed(table, 60)
    assert max(map(len, lines)) <= 60
    assert len([line for line in lines if "key" in line]) == 1
    assert "0.25" in cells_of(lines)


def test_several_labels_are_all_repeated() -> None:
    table = Table("set", "student")
    table.add_numbers(*(f"score {number}" for number in range(12)))
    table.add_row("mine", "resnet-18", *(f"{number}.5" for number in range(12)))
    lines = printed(table, 50)
    assert len([line for line in lines if re.match(" set +student", line)]) > 1
    assert len([line for line in lines if re.match(r" mine +resnet-18 +\d", line)]) > 1


def test_a_row_of_more_cells_than_columns_is_a_mistake_and_fewer_are_not() -> None:
    table = make_table()
    table.add_row("failed")
    with pytest.raises(ValueError, match="7 cells for 6 columns"):
        table.add_row(*"1234567")


def test_a_table_without_other_columns_or_rows_is_shown() -> None:
    assert "arm" in cells_of(printed(Table("arm"), 20))
    assert cells_of(printed(make_table(), 3))
