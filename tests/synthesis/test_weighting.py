"""The weight of a term: a number, or λ that follows the gradients of upstream's loss and of the term."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel, ValidationError
from support.cli import Cli
from support.losses import assert_parts_add_up
from support.small_run import only_run, run_folders
from support.third_party_plugin import ThirdParty

from dire_plug import plugins
from dire_plug.errors import PluginError
from dire_plug.files import read_json
from dire_plug.recipe.weight import AutoWeight, take_weight, with_weight
from dire_plug.synthesis.weighting import Weighting, leaves_of
from dire_plug.types import Batch, Slot


def batch_of(loss: float, *, slot: Slot | None = None, teacher: str = "teacher") -> tuple[Batch, torch.Tensor]:
    """Return a step whose loss has a gradient of norm `loss`, and a term whose gradient has the norm 2."""
    images = torch.tensor([3.0, 4.0], requires_grad=True)
    norm = torch.linalg.vector_norm(images)
    batch = Batch(images, loss * norm, torch.zeros(1), images[None], teacher, 0, slot or Slot(0, 0))
    return batch, 2 * norm


def followed(weighting: Weighting, loss: float, **where: Any) -> float:
    batch, term = batch_of(loss, **where)
    weighted, value = weighting.apply("term", term, batch)
    weighting.step_done()
    assert isinstance(value, torch.Tensor)
    assert weighted.item() == pytest.approx(value.item() * term.item())
    return value.item()


def auto(**settings: Any) -> Weighting:
    return Weighting({"term": AutoWeight(**settings)})


def test_the_first_weight_gives_the_terms_gradient_its_share_of_upstreams() -> None:
    assert followed(auto(ratio=0.2), 6.0) == pytest.approx(0.2 * 6 / 2)


def test_the_gradients_are_those_of_what_the_loop_optimises() -> None:
    # a perturbation that two images share: its gradient is the sum of theirs, which the loss's cancel but for one
    shared = torch.zeros(1, 2, requires_grad=True)
    images = torch.ones(2, 2) + shared
    loss, term = 4 * images[0].sum() - 3 * images[1].sum(), images.sum()
    batch = Batch(images, loss, torch.zeros(2), images, "teacher", 0, Slot(0, 0))
    _, weight = auto(ratio=0.2).apply("term", term, batch)
    assert float(weight) == pytest.approx(0.2 * 1 / 2)


def test_the_leaves_of_a_loss_are_what_it_is_computed_from() -> None:
    one, two, other = (torch.ones(2, requires_grad=True) for _ in range(3))
    found = leaves_of((one * two.detach() + two.exp()).sum() + other.detach().sum())
    assert {id(leaf) for leaf in found} == {id(one), id(two)}
    assert leaves_of(one) == [one]
    assert leaves_of(torch.ones(2)) == []


def test_later_comparisons_are_averaged_in_the_logarithm() -> None:
    weighting = auto(ratio=0.2, every=1, average=0.7)
    followed(weighting, 6.0)
    expected = 0.2 * math.exp(0.7 * math.log(3) + 0.3 * math.log(5))
    assert followed(weighting, 10.0) == pytest.approx(expected)


def test_gradients_are_compared_every_so_many_steps_of_a_network() -> None:
    weighting = auto(every=3)
    ones = [followed(weighting, 2.0), *(followed(weighting, 8.0) for _ in range(3))]
    assert ones[0] == ones[1] == ones[2] != ones[3]
    assert followed(weighting, 8.0, teacher="another") == pytest.approx(0.2 * 4)


def test_each_slot_begins_anew() -> None:
    weighting = auto(every=1)
    followed(weighting, 2.0)
    assert followed(weighting, 8.0, slot=Slot(0, 1)) == pytest.approx(0.2 * 4)


def test_a_term_without_gradient_has_no_weight_until_it_has_one() -> None:
    weighting = auto(every=1)
    images = torch.zeros(2, requires_grad=True)
    flat = Batch(images, images.sum(), torch.zeros(1), images[None], "teacher", 0, Slot(0, 0))
    _, value = weighting.apply("term", images.square().sum(), flat)
    assert isinstance(value, torch.Tensor)
    assert value.item() == 0
    assert followed(weighting, 8.0) == pytest.approx(0.2 * 4)


def test_a_weight_that_follows_leaves_the_loops_graph_whole() -> None:
    batch, term = batch_of(6.0)
    weighted, _ = auto(every=1).apply("term", term, batch)
    assert batch.loss is not None
    (batch.loss + weighted).backward()  # type: ignore[no-untyped-call]
    assert batch.images.grad is not None


@pytest.mark.parametrize("scaled", [True, False])
def test_a_scripts_scaler_keeps_small_gradients_of_half_precision(scaled: bool) -> None:
    images = torch.ones(4, requires_grad=True)
    small = (1e-5 * images.half().sum()) * 1e-4  # 1e-9 for each image, below float16's least number
    loss, term = small.float(), 1e-3 * images.sum()
    batch = Batch(images, loss, torch.zeros(1), images[None], "teacher", 0, Slot(0, 0))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**14) if scaled else None
    _, weight = auto(ratio=0.2).apply("term", term, batch, scaler=scaler)
    assert float(weight) == pytest.approx(0.2 * 1e-9 / 1e-3 if scaled else 0.0, rel=0.02)


def test_a_loss_that_does_not_reach_the_images_asks_for_a_number() -> None:
    batch, term = batch_of(1.0)
    other = torch.ones((), requires_grad=True)
    lost = Batch(batch.images, other * 2, batch.labels, batch.embeddings, "teacher", 0, batch.slot)
    with pytest.raises(PluginError, match=r"weight auto: upstream's loss has no gradient .* give this term a number"):
        auto().apply("term", term, lost)


@pytest.mark.parametrize("weight", [0.0, 2.5])
def test_a_number_multiplies_the_term(weight: float) -> None:
    batch, term = batch_of(1.0)
    weighted, value = Weighting({"term": weight}).apply("term", term, batch)
    assert value == weight
    assert weighted.item() == weight * term.item()


def test_without_a_weight_the_term_stays_the_same_object() -> None:
    batch, term = batch_of(1.0)
    assert Weighting({}).apply("term", term, batch)[0] is term


class Own(BaseModel):
    """A plugin's settings."""

    scale: float = 1


@pytest.mark.parametrize(
    ("given", "weight"),
    [
        ({}, 1.0),
        ({"weight": 3}, 3.0),
        ({"weight": "auto"}, AutoWeight()),
        ({"weight": {"ratio": 0.1, "every": 5}}, AutoWeight(ratio=0.1, every=5)),
        ({"weight": {"ratio": 0.9, "force": True}}, AutoWeight(ratio=0.9, force=True)),
    ],
)
def test_what_a_recipe_says_comes_back_beside_the_plugins_own(given: dict[str, Any], weight: Any) -> None:
    settings = with_weight(Own)(scale=2, **given).model_dump(mode="json")
    assert take_weight(settings) == (weight, {"scale": 2})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (-1, "must be a finite number from 0 up, 'auto', or a mapping"),
        ("automatic", "must be a finite number from 0 up, 'auto', or a mapping"),
        (float("nan"), "must be a finite number from 0 up"),
        ({"ratio": 0.5}, r"ratio must be at most 0\.3, above which images collapse; force: true allows it"),
        ({"ratio": 0}, "greater than 0"),
        ({"every": 0}, "greater than or equal to 1"),
    ],
)
def test_a_weight_out_of_range_is_refused(given: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        with_weight(Own)(weight=given)


def test_a_plugin_may_not_have_the_key_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    class Taken(BaseModel):
        weight: float = 1

    monkeypatch.setattr(plugins, "load", lambda kind, name: type("Plugin", (), {"settings_model": Taken}))
    with pytest.raises(PluginError, match="its settings have the key `weight`, which every regularizer gets from the"):
        plugins.settings_model("dire")


def test_the_weight_of_each_kept_step_is_in_the_record(cli: Cli, home: Path, recipe: Path) -> None:
    line = ("run", "sre2l", "--recipe", recipe, "--engine", "native", "--dire")
    assert cli(*line, "--set", "regularizers.dire.weight=auto").code == 0
    curves = read_json(only_run(home) / "losses.json")["slots"][0]["values"]
    assert_parts_add_up(curves, "dire/cd", "dire/cdm", "dire/edm")
    assert all(value > 0 for value in curves["dire/weight"])
    assert len(curves["dire/weight"]) == len(curves["dire"]) == 3


def test_the_parts_of_a_term_with_a_weight_add_up_to_it(cli: Cli, home: Path, recipe: Path) -> None:
    line = ("run", "sre2l", "--recipe", recipe, "--engine", "native", "--dire")
    assert cli(*line, "--set", "regularizers.dire.weight=0.25").code == 0
    assert_parts_add_up(read_json(only_run(home) / "losses.json")["mean"], "dire/cd", "dire/cdm", "dire/edm")


def test_a_weight_of_one_is_the_same_run(cli: Cli, home: Path, recipe: Path) -> None:
    line = ("run", "sre2l", "--recipe", recipe, "--engine", "native", "--dire")
    assert cli(*line).code == 0
    assert "finished before" in cli(*line, "--set", "regularizers.dire.weight=1").out
    assert len(run_folders(home)) == 1


def test_a_ratio_out_of_range_is_told_with_its_place(cli: Cli, bare_home: Path, recipe: Path) -> None:
    line = ("run", "sre2l", "--recipe", recipe, "--dire", "--set", "regularizers.dire.weight.ratio=0.5")
    answer = cli(*line)
    assert answer.code == 2
    assert "regularizers.dire.weight" in answer.err
    assert "ratio must be at most 0.3" in answer.err


def test_a_third_party_term_gets_a_weight_too(cli: Cli, third_party: ThirdParty, home: Path, recipe: Path) -> None:
    line = ("run", "sre2l", "--recipe", recipe, "--engine", "native", "--arm", "spread")
    assert cli(*line, "--set", "regularizers.spread.weight=auto").code == 0
    assert "spread/weight" in read_json(only_run(home) / "losses.json")["slots"][0]["values"]


def test_several_terms_are_summed_in_an_arm_of_their_names(
    cli: Cli, third_party: ThirdParty, home: Path, recipe: Path
) -> None:
    line = ("run", "sre2l", "--recipe", recipe, "--engine", "native", "--regularizer", "dire", "--regularizer")
    assert cli(*line, "spread=auto").code == 0
    run = only_run(home)
    assert run.name.startswith("dire+spread-0-")
    curves = read_json(run / "losses.json")["slots"][0]["values"]
    assert {"upstream", "dire", "spread", "spread/weight"} <= set(curves)
    assert "dire/weight" not in curves


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--regularizer", "dier"), "no arm 'dier' (did you mean 'dire'?)"),
        (("--regularizer", "dire", "--regularizer", "dire"), "arm 'dire+dire': names dire twice"),
        (("--regularizer", "dire=-1"), "weight: must be a finite number from 0 up"),
        (("--regularizer", "dire", "--arm", "random"), "--regularizer dire and --arm random contradict each other"),
    ],
)
def test_a_wrong_term_is_refused(
    cli: Cli, bare_home: Path, recipe: Path, options: tuple[str, ...], message: str
) -> None:
    answer = cli("run", "sre2l", "--recipe", recipe, *options)
    assert answer.code == 2
    assert message in answer.err
