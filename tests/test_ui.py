"""What is printed arrives whole: no text is taken for markup, no path is broken, no cell is cut off."""

import io
import sys

import pytest
from rich.console import Group
from rich.table import Table

from dire_plug import ui

PATH = "/runs" + "/folder" * 20


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")


def make_table() -> Table:
    table = Table("shape [n]", "where")
    table.add_row("[n, 3, h, w] :smile:", PATH)
    return table


@pytest.mark.parametrize("text", ["images: [n, 3, h, w]", "[bold]x[/bold]", "a:smile:b", f"run folder: {PATH}", "[/]"])
def test_text_is_shown_as_it_is(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    ui.show(text)
    ui.say(text)
    ui.warn(text)
    captured = capsys.readouterr()
    assert captured.out == f"{text}\n"
    assert captured.err == f"{text}\nwarning: {text}\n"


def test_a_piped_table_is_as_wide_as_its_cells(capsys: pytest.CaptureFixture[str]) -> None:
    ui.show(Group(make_table(), "a line"))
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert [[cell.strip() for cell in row.strip("│").split("│")] for row in rows] == [["[n, 3, h, w] :smile:", PATH]]


def test_a_terminal_breaks_lines_itself_so_that_a_path_can_be_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    ui.show(f"run folder: {PATH}")
    assert stream.getvalue() == f"run folder: {PATH}\n"


def test_on_a_narrow_terminal_no_cell_loses_a_character(monkeypatch: pytest.MonkeyPatch) -> None:
    for content in (make_table(), Group(make_table())):
        stream = Terminal()
        monkeypatch.setattr(sys, "stdout", stream)
        ui.show(content)
        rows = [line for line in stream.getvalue().splitlines() if "│" in line]
        assert max(map(len, rows)) <= 40
        columns = zip(*(row.strip("│").split("│") for row in rows), strict=True)
        assert ["".join("".join(column).split()) for column in columns] == ["[n,3,h,w]:smile:", PATH]
