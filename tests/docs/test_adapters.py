"""examples/toy-net's commands print what it shows; docs/reference/adapters.md leaves nothing out."""

import inspect
import re
import shlex
from pathlib import Path

import pytest
from support.cli import Cli
from support.scaffolds import masked
from support.third_party_plugin import EXAMPLE, PATCH, SCRIPT, URL, ThirdParty, read_files

from dire_plug import hookspecs
from dire_plug.api.method import PlannedAdapter
from dire_plug.types import Adapter
from dire_plug.upstream.source.patching import bridge_functions

ROOT = EXAMPLE.parents[1]
TEXT = (ROOT / "docs" / "reference" / "adapters.md").read_text()
TRANSCRIPT = (EXAMPLE / "transcript.txt").read_text()
CONSOLE = re.findall(r"^\$ dire-plug ([^\n]*)\n((?:(?!\$ )[^\n]*\n)*)", TRANSCRIPT, re.MULTILINE)
"""The example's commands, without the program's name, and what each printed."""


def test_the_example_goes_from_vendor_to_compare() -> None:
    assert [command.split()[0] for command, _ in CONSOLE] == ["vendor", "verify", "run", "run", "compare"]


def test_the_patch_shown_is_the_one_that_the_examples_script_makes(third_party: ThirdParty) -> None:
    assert third_party.patch.read_text() == read_files()[PATCH]


def test_adapter_and_recipe_name_the_commit_of_the_published_files(third_party: ThirdParty) -> None:
    for name in ("toy_net_plugin/method.py", "toy_net_plugin/recipes/small.yaml"):
        assert re.findall(r"\b[0-9a-f]{40}\b", read_files()[name]) == [third_party.commit]


def test_the_tutorial_inserts_the_same_calls_at_the_same_lines() -> None:
    (places,) = re.findall(r"^LINES = (\{.*?^\})", read_files()["make_patch.py"], re.DOTALL | re.MULTILINE)
    lines: dict[int, list[str]] = eval(places)
    tutorial = (ROOT / "docs" / "your-own.md").read_text()
    inserted = dict(re.findall(rf"^\$ dire-plug patch insert my-toy {SCRIPT}:(\d+) '(.*)'$", tutorial, re.MULTILINE))
    assert inserted == {str(number): call.strip() for number, (call,) in lines.items() if "bridge." in call}


def test_the_tutorial_shows_the_published_loop_with_its_line_numbers() -> None:
    published = read_files()[SCRIPT].splitlines()
    tutorial = (ROOT / "docs" / "your-own.md").read_text()
    (excerpt,) = re.findall(r"^```text\n(.*?)^```$", tutorial, re.DOTALL | re.MULTILINE)
    assert len(excerpt.splitlines()) > 10
    assert [line for line in excerpt.splitlines() if published[int(line[:2]) - 1] != line[4:]] == []


def test_every_member_of_an_adapter_and_every_call_of_a_patch_is_explained() -> None:
    shown = set(re.findall(r"`(?:\w+ = )?(?:bridge\.)?(\w+)", TEXT))
    members = {name for name in (*Adapter.__annotations__, *vars(Adapter)) if name[0] != "_"}
    hooks = {name for name, _ in inspect.getmembers(PlannedAdapter) if name[0] != "_" and hasattr(hookspecs, name)}
    assert {"write_inputs", "scripts"} < members
    assert {"plan_labels"} < hooks
    assert sorted((members | hooks | set(bridge_functions())) - shown) == []


def test_what_the_page_says_planned_adapter_lacks_it_lacks() -> None:
    section = TEXT.split("## The members")[1].split("## Shims")[0]
    rows = re.findall(r"^\| ([^|]*) \| [^|]* \| ([^|]*) ?\|$", section, re.MULTILINE)
    lacks = {name for cell, given in rows if not given.strip() for name in re.findall(r"`(\w+)`", cell)}
    assert {"plan", "verify_case"} < lacks
    assert [name for name in sorted(lacks) if hasattr(PlannedAdapter, name)] == []


def test_the_page_counts_its_own_lines() -> None:
    text = " ".join(TEXT.split())
    counts = re.search(r"an adapter of (\d+) lines, (\d+) lines that make the patch, and a recipe of (\d+)", text)
    names = ("toy_net_plugin/method.py", "make_patch.py", "toy_net_plugin/recipes/small.yaml")
    assert counts is not None
    assert [int(count) for count in counts.groups()] == [len(read_files()[name].splitlines()) for name in names]


def test_every_file_that_the_page_points_to_exists() -> None:
    paths = set(re.findall(r"`((?:dire_plug|docs|patches|tests)/[\w./-]+)`", TEXT))
    needs = TEXT.split("| need | how | example |")[1].split("\n## ")[0]
    paths |= {f"dire_plug/methods/{name}" for name in re.findall(r"`(\w+\.py)`", needs)}
    assert len(paths) > 10
    assert [path for path in sorted(paths) if not (ROOT / path).exists()] == []


@pytest.mark.slow
def test_the_commands_print_what_the_page_shows(
    cli: Cli, third_party: ThirdParty, bare_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for command, shown in CONSOLE:
        answer = cli(*shlex.split(command))
        printed = answer.err + answer.out
        assert answer.code == (2 if "error:" in shown else 0), printed
        printed = printed.replace(str(bare_home), "/tmp/toy/home").replace(str(third_party.repository), URL)
        assert masked(printed) == masked(shown)
