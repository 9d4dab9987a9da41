"""A run whose images collapsed says so, with the weights to lower."""

from pathlib import Path

import pytest
from support.cli import Cli
from support.small_run import made_by_kind, only_run

from dire_plug.files import read_json
from dire_plug.stages import collapse_check as collapse
from dire_plug.stages.collapse_check import CollapseReport


@pytest.mark.parametrize(
    ("recognised", "norm", "problem"),
    [
        (0.6, 1.1, None),
        (0.51, 0.51, None),
        (0.4, 1.0, "takes 40 % of the images for their class, and 100 % of real ones"),
        (0.9, 0.3, "embeddings are 0.3 times as long as those of real ones"),
        (0.9, 5.0, "embeddings are 5 times as long as those of real ones"),
        (0.9, float("nan"), "embeddings are nan times as long"),
    ],
)
def test_images_far_from_real_ones_are_a_problem(recognised: float, norm: float, problem: str | None) -> None:
    found = CollapseReport(recognised, 1.0, norm, chance=0.1).problem
    assert found is None if problem is None else problem in str(found)


def test_a_network_that_recognises_little_is_not_held_against_the_images() -> None:
    assert CollapseReport(recognised=0.02, recognised_real=0.12, norm=9, chance=0.1).problem is None


def test_a_run_keeps_what_it_saw(finished: Path, baseline: Path) -> None:
    signs = read_json(baseline / "metrics.json")["collapse"]
    (entry,) = (finished / "store" / "collapse").iterdir()
    assert signs == read_json(entry / collapse.FILE)
    assert 0 <= signs["recognised"] <= 1
    assert signs["norm"] > 0


def test_a_collapsed_run_names_the_weight_and_ends_well(
    cli: Cli, home: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collapse, "MOST_NORM", 0.1)
    monkeypatch.setattr(collapse, "accuracy_of", lambda *given: 100.0)
    answer = cli("run", "sre2l", "--recipe", recipe, "--engine", "native", "--dire")
    assert answer.code == 0, answer.err
    assert "the images may have collapsed: " in answer.err
    assert "lower regularizers.dire.weight, or set it to auto" in answer.err


def test_real_images_are_not_looked_at(cli: Cli, home: Path, recipe: Path) -> None:
    assert cli("run", "sre2l", "--recipe", recipe, "--arm", "random").code == 0
    assert read_json(only_run(home) / "metrics.json")["collapse"] is None
    assert "collapse" not in made_by_kind(home)
