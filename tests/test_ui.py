"""What is printed arrives whole: no text is taken for markup, no path is broken, no cell is cut off."""

import io
import re
import sys

import pytest
from rich.console import Group
from support.cli import Cli

from dire_plug import ui
from dire_plug.tables import Table

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
    table = Table("shape [n]")
    table.add_prose("where")
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
    rows = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert f"[n, 3, h, w] :smile:  {PATH}" in rows


def test_a_terminal_breaks_lines_itself_so_that_a_path_can_be_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stdout", stream)
    ui.show(f"run folder: {PATH}")
    assert stream.getvalue() == f"run folder: {PATH}\n"


def test_a_terminal_s_messages_are_broken_between_words_and_a_path_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setattr(sys, "stderr", stream)
    ui.warn(f"a message of more words than fit one line names {PATH}")
    ui.say("a " * 30 + "\nb")
    assert stream.getvalue().splitlines() == [
        *("warning: a message of more words than", "fit one line names", PATH),
        *(" ".join("a" * 20), " ".join("a" * 10), "b"),
    ]


def test_on_a_narrow_terminal_no_cell_loses_a_character(monkeypatch: pytest.MonkeyPatch) -> None:
    for content in (make_table(), Group(make_table())):
        stream = Terminal()
        monkeypatch.setattr(sys, "stdout", stream)
        ui.show(content)
        lines = re.sub(r"\x1b\[\d*m", "", stream.getvalue()).splitlines()
        assert max(map(len, lines)) <= 40
        (at,) = (line.index("where") for line in lines if "where" in line)
        rows = lines[next(number for number, line in enumerate(lines) if "─" in line) + 1 :]
        assert "".join("".join(row[at:] for row in rows).split()) == PATH
        assert "".join(row[:at] for row in rows).split() == ["[n,", "3,", "h,", "w]", ":smile:"]


def test_a_command_leaves_no_option_behind_in_its_process(cli: Cli, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli("-v", "list", "methods", "--json").code == 0
    assert not ui.is_verbose()
    ui.show("a line")
    assert capfd.readouterr().out == "a line\n"
