"""The judge: what it compares, and that this tree makes what the table says, where the table knows the machine."""

import json
from pathlib import Path
from typing import Any

import pytest
from judge.judge import CASES, PROTOCOLS, differences, key, known, read_facts, read_table, run_case, versions
from support.paths import ROOT

from dire_plug import plugins
from dire_plug.recipe.evaluate import PROTOCOLS as EVERY_PROTOCOL


def a_home(folder: Path, *, seconds: float = 1.5, pixel: bytes = b"png", last: float = 90.5, name: str = "ab") -> Path:
    run = folder / "runs" / "sre2l" / "quick" / f"dire-0-{name}"
    files = {
        run / "metrics.json": {"accuracy": {"last": [last]}, "recover": {"seconds": seconds, "hardware": {}}},
        run / "losses.json": {"mean": {"dire": [1.25, 2.5]}},
        folder / "store" / "student" / name / "student.json": {"curve": [[0, 10.0], [9, last]], "seconds": seconds},
    }
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    (run / "images" / "0").mkdir(parents=True)
    (run / "images" / "0" / "0.png").write_bytes(pixel)
    return folder


def test_each_method_and_each_protocol_has_its_case() -> None:
    assert {name for name, case in CASES.items() if case.vendors} == set(plugins.known("methods"))
    assert set(PROTOCOLS) == set(EVERY_PROTOCOL)
    sliced = {name for name, case in CASES.items() if case.sliced}
    assert sliced == {"sre2l", "delt", "infer", "mtt", "native", "fkd", "set"}


def test_seconds_and_names_of_entries_do_not_count(tmp_path: Path) -> None:
    one = read_facts(a_home(tmp_path / "one"))
    assert one == read_facts(a_home(tmp_path / "other", seconds=7.25, name="cd34"))
    assert sum(len(values) for values in one.values()) == 1 + 2 + 1 + 4


@pytest.mark.parametrize(
    ("changed", "groups"), [({"pixel": b"gnp"}, {"images"}), ({"last": 90.25}, {"metrics", "student"})]
)
def test_a_changed_pixel_or_accuracy_is_seen(tmp_path: Path, changed: dict[str, Any], groups: set[str]) -> None:
    one, other = read_facts(a_home(tmp_path / "one")), read_facts(a_home(tmp_path / "other", **changed))
    assert {group for group in one if one[group] != other[group]} == groups


def test_groups_that_differ_are_gone_or_are_new_are_named() -> None:
    lines = differences("native", {"a": "1 of 2", "b": "2 of 2"}, {"a": "3 of 2", "c": "4 of 1"})
    assert lines == ["native: a: differs (1 of 2, expected 3 of 2)", "native: b: new", "native: c: gone"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["native", "set"])
def test_this_tree_makes_what_the_table_says(name: str, tmp_path: Path) -> None:
    """Where the table knows this processor and torch: `python tests/judge/judge.py` adds them."""
    if name not in known():
        pytest.skip(f"digests.json has none of {name} for {key()}")
    if versions() != (then := read_table()["keys"][key()]["versions"]):
        pytest.skip(f"digests.json has those of other versions: {then}")
    groups = run_case(name, ROOT, tmp_path)
    assert isinstance(groups, dict)
    assert differences(name, groups, known()[name]) == []
