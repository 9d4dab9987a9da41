"""`--json`: one meaning everywhere, JSON alone on standard output, with identifiers for keys."""

import json
import re
from pathlib import Path
from typing import Any

import click
import pytest
from support.cli import Cli
from support.small_run import Answer

from dire_plug.cli import COMMANDS, group
from dire_plug.measures import run_measures

SILENT = {"new", "patch", "completion"}
"""Commands that show nothing: they write files, or lines for a shell."""
KEY = re.compile(r"[a-z][a-z0-9_]*")


def read(answer: Answer) -> Any:
    assert answer.code == 0, answer.err
    return json.loads(answer.out)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in SILENT])
def test_every_command_that_shows_something_has_the_same_flag(name: str) -> None:
    command = group.get_command(click.Context(group), name)
    assert command is not None
    (option,) = [one for one in command.params if one.name == "json"]
    assert isinstance(option, click.Option)
    assert (option.is_flag, option.opts) == (True, ["--json"])


def test_lists_are_lists_of_records_with_identifiers_for_keys(cli: Cli, finished_home: Path, baseline: Path) -> None:
    for what in ("methods", "recipes", "plugins", "runs", "artefacts"):
        records = read(cli("list", what, "--json"))
        assert len(records) > 0
        assert [key for record in records for key in record if not KEY.fullmatch(key)] == []
    (run,) = read(cli("list", "runs", "--json"))
    assert (run["run"], run["arm"], run["ipc"]) == (f"sre2l/tiny/{baseline.name}", "baseline", 2)
    assert list(run["measures"]) == [measure.key for measure in run_measures()]


def test_a_runs_numbers_are_the_same_in_run_and_show(cli: Cli, finished_home: Path, recipe: Path) -> None:
    made = cli("run", "sre2l", "--recipe", recipe, "--engine", "native", "--json")
    again = read(cli("show", "baseline-0", "--json"))
    assert read(made)["measures"] == again["measures"]
    assert "run folder: " in made.err
    assert (again["state"], again["provenance"]["seed"]) == ("finished", 0)


def test_a_dry_run_gives_what_differs_and_the_units(cli: Cli, bare_home: Path) -> None:
    found = read(cli("compare", "sre2l", "--arms", "control,dire", "--engine", "native", "--dry-run", "--json"))
    assert list(found["arms"]) == ["control", "dire"]
    assert "regularizers.dire.r_e" in found["differing"]
    assert found["arms"]["dire"]["values"]["regularizers.dire.r_e"]["value"] == 0.05
    assert found["arms"]["control"]["values"]["dataset.path"]["value"] is None
    assert {"name", "waits_for", "operations", "memory", "disk"} <= found["units"][0].keys()


def test_doctor_and_clean_give_their_facts(cli: Cli, bare_home: Path) -> None:
    found = read(cli("doctor", "--json"))
    assert found["folders"]["home"] == str(bare_home)
    assert {one["dataset"] for one in found["datasets"]} >= {"digits", "cifar-10"}
    assert read(cli("clean", "--json"))["entries"] == {}
    assert read(cli("jobs", "--json")) == []
