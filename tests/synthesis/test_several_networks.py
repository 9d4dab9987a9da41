"""Several networks that make a step of the loop together: which they are, and the mean of a term over them."""

from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from support.synthesis_loop import CLASSES, STEPS, Grouped, Term, network, varied
from torch import Tensor, nn

from dire_plug.errors import DirePlugError
from dire_plug.files import read_json
from dire_plug.recipe.weight import AutoWeight
from dire_plug.types import Batch

KEYS = ("teacher", "second", "third")


class Voting(Grouped):
    """An adapter whose script calls its networks One, Two and Three."""

    network_names = MappingProxyType({"One": "teacher", "Two": "second", "Three": "third"})


def committee() -> list[nn.Sequential]:
    """Return two networks with other weights."""
    one, two = network(), network()
    with torch.no_grad():
        for parameter in two.parameters():
            parameter.mul_(2)
    return [one, two]


def run_pass(
    synthesis: Any, networks: list[nn.Sequential], names: list[str] | str | None, *, given: Any = None
) -> Tensor:
    """Run a pass of a loop in which all networks make each step; return the gradient of its last one."""
    synthesis.begin_pass(0)
    synthesis.watch(networks, names=names)
    labels = synthesis.labels(torch.arange(CLASSES))
    images = synthesis.start(torch.ones(len(labels), 3, 2, 2, requires_grad=True), labels)
    for step in range(STEPS):
        loss = torch.stack([nn.functional.cross_entropy(one(images), labels) for one in networks]).sum()
        total = synthesis.loss(loss, images=images, labels=labels, step=step, network=given or networks)
        (gradient,) = torch.autograd.grad(total - loss, images)
        synthesis.step_done(total, images=images, labels=labels, step=step)
    synthesis.end_pass()
    found: Tensor = gradient
    return found


def square(batch: Batch) -> Tensor:
    return batch.embeddings.square().sum()


def test_a_term_is_the_mean_over_the_networks_of_a_step(tmp_path: Path) -> None:
    seen: list[str] = []

    def term(batch: Batch) -> Tensor:
        seen.append(batch.teacher)
        return square(batch)

    synthesis = varied(tmp_path, adapter=Voting(), terms={"term": Term(term)}, networks=KEYS)
    found = run_pass(synthesis, committee(), ["Three", "One"])
    assert seen == ["third", "teacher"] * STEPS
    images = torch.ones(CLASSES, 3, 2, 2, requires_grad=True)
    terms = [one[:3](images).square().sum() for one in committee()]
    (expected,) = torch.autograd.grad(torch.stack(terms).mean(), images)
    torch.testing.assert_close(found, expected)


def test_what_is_recorded_of_several_networks_has_the_networks_key(tmp_path: Path) -> None:
    weights = {"term": {"weight": AutoWeight().model_dump()}}
    synthesis = varied(tmp_path, adapter=Voting(), terms={"term": Term(square)}, networks=KEYS, regularizers=weights)
    run_pass(synthesis, committee(), ["One", "Two"])
    (file,) = (tmp_path / "passes").rglob("*losses*.json")
    names = set(read_json(file)["slots"][0]["curves"])
    assert {"term/weight/teacher", "term/weight/second"} < names


def test_one_network_of_several_is_named_by_a_text(tmp_path: Path) -> None:
    seen: list[str] = []

    def term(batch: Batch) -> Tensor:
        seen.append(batch.teacher)
        return square(batch)

    synthesis = varied(tmp_path, adapter=Voting(), terms={"term": Term(term)}, networks=KEYS)
    run_pass(synthesis, [network()], "Three")  # a patch can't make a list of a name that the script has
    assert seen == ["third"] * STEPS


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["One", "Four"], r"calls 'Four', but .* network_names has One, Two, Three"),
        ("Four", r"calls 'Four', but .* network_names has One, Two, Three"),
        (["One"], "watches 2 networks, but hands over 1 names"),
        (None, r"watches 2 networks, but the recipe has 3: teacher, second, third; .* names=…"),
    ],
)
def test_networks_that_have_no_key_are_refused(tmp_path: Path, names: list[str] | str | None, says: str) -> None:
    synthesis = varied(tmp_path, adapter=Voting(), terms={"term": Term(square)}, networks=KEYS)
    with pytest.raises(DirePlugError, match=says):
        run_pass(synthesis, committee(), names)


def test_a_step_of_a_network_that_is_not_watched_is_refused(tmp_path: Path) -> None:
    synthesis = varied(tmp_path, adapter=Voting(), terms={"term": Term(square)}, networks=KEYS)
    networks = committee()
    with pytest.raises(DirePlugError, match=r"a network that it never handed to bridge\.watch"):
        run_pass(synthesis, networks, ["One", "Two"], given=[networks[0], network()])
