"""docs/your-own.md: its commands, from nothing to a comparison of a new term on a new method, print what it shows."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from support.cli import Cli
from support.paths import ROOT
from support.scaffolds import forget, install_package, masked, run_tests
from support.third_party_plugin import ThirdParty

PAGE = ROOT / "docs" / "your-own.md"
TEXT = PAGE.read_text()
FOLDER = "/tmp/own"
MODULE = Path("dire-plug-my-toy/dire_plug_my_toy")


def commands() -> list[tuple[str, str]]:
    """Return the page's commands in their order, each with what it printed."""
    blocks = "".join(re.findall(r"^```console\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE))
    return re.findall(r"^\$ ([^\n]*)\n((?:(?!\$ )[^\n]*\n)*)", blocks, re.MULTILINE)


def written() -> dict[str, list[str]]:
    """Return the lines that the page has a reader write, by the language of their block."""
    return {
        language: re.findall(rf"^```{language}\n({first}.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)[0].splitlines()
        for language, first in (("python", "LICENCE"), ("yaml", "  flags"))
    }


def write_by_hand(folder: Path) -> None:
    """Put the page's lines in the place of those that begin alike, in the adapter and the recipe."""
    for name, language in ((MODULE / "method.py", "python"), (MODULE / "recipes" / "quick.yaml", "yaml")):
        text = (folder / name).read_text()
        for line in written()[language]:
            head = line.partition(":")[0]
            text, count = re.subn(rf"^{re.escape(head)}:.*$", line.replace("\\", r"\\"), text, flags=re.MULTILINE)
            assert count == 1
        (folder / name).write_text(text)
    forget(folder / MODULE.parent)


def test_the_page_counts_the_lines_written_by_hand() -> None:
    lines = written()
    by_command = [command for command, _ in commands() if command.startswith("dire-plug patch insert")]
    text = " ".join(TEXT.split())
    assert f"By hand: {len(lines['python']) + len(lines['yaml'])} lines" in text
    assert f"method.py`, {len(lines['python'])} lines" in text
    assert len(by_command) == 6
    assert "six calls put in by command" in text


def test_the_page_goes_from_nothing_to_compare() -> None:
    words = [" ".join(command.split()[:2]) for command, _ in commands()]
    assert words == [
        *("dire-plug new", "pip install", "pytest dire-plug-my-term"),
        *("dire-plug new", "pip install", "dire-plug verify"),
        *["dire-plug patch"] * 7,
        *("dire-plug vendor", "dire-plug verify", "dire-plug compare"),
    ]


def test_the_toy_is_published_at_the_commit_that_the_page_names(tmp_path: Path) -> None:
    (line,) = re.findall(rf"^    sh (\S+) {FOLDER}/published", TEXT, re.MULTILINE)
    made = subprocess.run(
        ["sh", str(ROOT / line), str(tmp_path / "published")], check=True, capture_output=True, text=True
    )
    assert f"--commit {made.stdout.strip()} " in TEXT


def test_what_the_page_points_to_exists() -> None:
    links = re.findall(r"\]\((\w[\w./-]*)\)", TEXT)
    assert len(links) > 1
    assert [link for link in links if not (PAGE.parent / link).is_file()] == []


@pytest.mark.slow
def test_the_commands_print_what_the_page_shows(
    cli: Cli, made_third_party: ThirdParty, bare_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(made_third_party.repository, tmp_path / "published")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for command, shown in commands():
        program, *line = shlex.split(command.replace(FOLDER, str(tmp_path)))
        if program == "pip":
            install_package(tmp_path / line[-1], monkeypatch)
        elif program == "pytest":
            assert len(run_tests(tmp_path / line[0] / "tests" / "test_term.py")) == 4
        else:
            answer = cli(*line)
            assert answer.code == (2 if shown.startswith("error:") else 0), answer.err
            printed = (answer.err if answer.code else answer.out).replace(str(tmp_path), FOLDER)
            assert masked(printed) == masked(shown)
            if answer.code:
                write_by_hand(tmp_path)
