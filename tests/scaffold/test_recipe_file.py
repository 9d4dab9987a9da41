"""Copies of recipes: `new recipe`, which runs as it is, and one with a preset more."""

from pathlib import Path

import pytest
from support.cli import Cli

from dire_plug import plugins
from dire_plug.errors import DirePlugError
from dire_plug.recipe import AS_PRINTED, read_yaml
from dire_plug.recipe.as_printed import print_arm
from dire_plug.scaffold.recipe_file import new_recipe, write_preset


def test_the_copy_runs_and_an_edit_of_it_counts(
    cli: Cli, bare_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = cli("new", "recipe", "mine", "--from", "sre2l/quick")
    assert answer.code == 0, answer.err
    assert answer.out.splitlines()[1] == "next: dire-plug run sre2l --recipe mine.yaml --dry-run"
    path = tmp_path / "mine.yaml"
    path.write_text(path.read_text().replace("ipc: 10\n", "ipc: 3\n"))
    shown = cli("run", "sre2l", "--recipe", "mine.yaml", "--engine", "native", "--dry-run")
    assert shown.out.startswith("SRe2L: recipe mine, arm baseline, seed 0\n")
    assert ["ipc", "3"] in [line.split()[:2] for line in shown.out.splitlines()]


@pytest.mark.parametrize(
    ("name", "origin", "words"),
    [
        ("mine", "quick", "--from quick: write it as METHOD/RECIPE, such as sre2l/quick"),
        ("mine", "sre2l/quik", r"no recipe 'quik' in .* \(did you mean 'quick'\?\)"),
        ("mine", "sre3l/quick", "unknown method 'sre3l'"),
        ("a/b", "sre2l/quick", "'a/b': must be a name without folders"),
        ("..", "sre2l/quick", "must be a name without folders"),
        ("taken", "sre2l/quick", "exists already"),
    ],
)
def test_what_cannot_be_copied_is_said(tmp_path: Path, name: str, origin: str, words: str) -> None:
    (tmp_path / "taken.yaml").touch()
    with pytest.raises(DirePlugError, match=words):
        new_recipe(name, origin=origin, into=tmp_path)
    assert (tmp_path / "taken.yaml").read_text() == ""


RECIPES = sorted(path for name in plugins.known("methods") for path in plugins.load_adapter(name).recipes().glob("*"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_preset_is_added_and_no_comment_is_lost(tmp_path: Path, path: Path) -> None:
    preset = {"regularizers": {"dire": {"multiplier": 1e-5, "weight": {"ratio": 0.1}}}}
    source = 'chosen: "by hand", as it is'
    write_preset(tmp_path / "new.yaml", path, "mine", preset, source=source, comment="A copy.")
    before, after = read_yaml(path), read_yaml(tmp_path / "new.yaml")
    assert after["presets"] == {**before.get("presets", {}), "mine": preset}
    assert after["sources"] == {**before["sources"], "presets.mine": source}
    untouched = {"name", "presets", "sources"}
    assert {k: v for k, v in after.items() if k not in untouched} == {
        k: v for k, v in before.items() if k not in untouched
    }
    text = (tmp_path / "new.yaml").read_text()
    assert text.startswith("# A copy.\n\n")
    assert [line for line in path.read_text().splitlines() if line not in text.splitlines()] == []


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_printed_arm_is_written_beside_the_preset_that_says_it(tmp_path: Path, path: Path) -> None:
    before = read_yaml(path)
    preset = before.get("presets", {}).get(AS_PRINTED, {})
    write_preset(
        tmp_path / "new.yaml", path, "mine", preset, source="chosen: so", comment="A copy.", printed_for=before["ipc"]
    )
    after, printed = read_yaml(tmp_path / "new.yaml"), print_arm(before, ipc=before["ipc"])
    assert after["arms"] == printed["arms"]
    assert after["sources"] == {**printed["sources"], "presets.mine": "chosen: so"}
    assert after["presets"] == {**before.get("presets", {}), "mine": preset}


def test_a_preset_is_added_to_a_recipe_in_another_style(tmp_path: Path) -> None:
    (tmp_path / "old.yaml").write_text("method: sre2l\npresets: {a: {ipc: 1}}\nsources:\n    ipc: 'chosen: so'\n")
    write_preset(tmp_path / "new.yaml", tmp_path / "old.yaml", "b", {"ipc": 2}, source="chosen: so", comment="A copy.")
    after = read_yaml(tmp_path / "new.yaml")
    assert after["presets"] == {"a": {"ipc": 1}, "b": {"ipc": 2}}
    assert after["sources"] == {"ipc": "chosen: so", "presets.b": "chosen: so"}
