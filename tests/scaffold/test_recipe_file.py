"""`new recipe`: a copy of a recipe that runs as it is."""

from pathlib import Path

import pytest
from support.cli import Cli

from dire_plug.errors import DirePlugError
from dire_plug.scaffold.recipe_file import new_recipe


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
