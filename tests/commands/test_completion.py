"""Completion by a shell, and the help that names what completes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from support.cli import Cli

from dire_plug.cli import COMMANDS, group
from dire_plug.commands.completion import SHELLS, VARIABLE
from dire_plug.plugins import known

METHODS = list(known("methods"))


def complete(line: str) -> list[str]:
    """Return what is offered for the last word of a line, which may be empty."""
    *before, last = line.split(" ")
    return [item.value for item in ShellComplete(group, {}, "dire-plug", VARIABLE).get_completions(before, last)]


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("", list(COMMANDS)),
        ("run ", METHODS),
        ("verify sr", [name for name in METHODS if name.startswith("sr")]),
        ("vendor sre2l d", [name for name in METHODS if name.startswith("d")]),
        ("run sre2l --recipe cifar", ["cifar-10", "cifar-100"]),
        ("run sre2l --recipe cifar-100 --preset ", ["as-released", "as-printed"]),
        ("compare sre2l --arms baseline,dire,cont", ["baseline,dire,control"]),
        ("compare-methods a", ["all"]),
        ("compare-methods sre2l,d", [f"sre2l,{name}" for name in METHODS if name.startswith("d")]),
        ("compare-methods sre2l,cda --recipe tiny", ["tiny-imagenet"]),
        ("compare-methods all --arms baseline,cont", ["baseline,control"]),
        ("compare-methods all --subsets random,her", ["random,herding"]),
        ("run sre2l --regularizer fac", ["facility-location"]),
        ("run sre2l --arm verify", []),
        ("time sre2l sre2l+contr", ["sre2l+control"]),
        ("measure x --recipe sre2l/ti", ["sre2l/tiny-imagenet"]),
        ("reproduce table-1", [f"table-{number}" for number in range(10, 18)]),
        ("run nothing --recipe ", []),
        ("run sre2l --recipe nothing --preset ", []),
    ],
)
def test_names_are_offered_by_the_words_before(bare_home: Path, line: str, offered: list[str]) -> None:
    assert sorted(complete(line)) == sorted(offered)


def test_runs_are_offered_by_path_and_by_name(finished_home: Path, baseline: Path) -> None:
    assert complete("show ") == [f"sre2l/tiny/{baseline.name}"]
    assert complete("report basel") == [baseline.name]


def test_what_a_shell_asks_is_answered_without_importing_torch() -> None:
    program = (
        "import sys\nfrom dire_plug.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('torch', 'scipy', 'matplotlib') if name in sys.modules])"
    )
    asked = {VARIABLE: "bash_complete", "COMP_WORDS": "dire-plug compare sre2l --arms ", "COMP_CWORD": "4"}
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | asked, capture_output=True, text=True, check=True
    )
    *offered, heavy = done.stdout.splitlines()
    assert "plain,baseline" in offered
    assert heavy == "[]"


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script_of_a_shell_names_the_program_and_the_variable(cli: Cli, shell: str) -> None:
    answer = cli("completion", shell)
    assert answer.code == 0, answer.err
    assert "dire-plug" in answer.out
    assert f"{VARIABLE}={shell}_complete" in answer.out


@pytest.mark.parametrize("line", ["", "jobs", "new", "patch"])
def test_no_summary_is_cut_at_80_columns(cli: Cli, monkeypatch: pytest.MonkeyPatch, line: str) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    answer = cli(*line.split(), "--help")
    listed = answer.out.partition("Options:")[2]
    assert "..." not in listed
    assert max(map(len, answer.out.splitlines())) <= 80


@pytest.mark.parametrize("command", ["run", "compare", "ablate", "tune", "time", "verify"])
def test_help_names_the_methods(cli: Cli, command: str) -> None:
    text = " ".join(cli(command, "--help").out.split())
    assert f"METHOD is one of: {', '.join(METHODS)}." in text
