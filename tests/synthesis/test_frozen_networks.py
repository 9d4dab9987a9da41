"""Terms in another trained network than the inverted one, or in the mean over several."""

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from support.cli import Cli
from support.losses import assert_parts_add_up
from support.small_run import only_run, run_folders
from support.synthesis_loop import CLASSES, Term, network, varied
from torch import nn

from dire_plug.files import read_json
from dire_plug.models import build, embed
from dire_plug.models.checkpoint import Network, save
from dire_plug.types import LOOP, Batch

STATISTICS = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
OUTSIDE = "frozen:resnet-small"


def outside(folder: Path) -> tuple[dict[str, Any], nn.Module]:
    """Return the `frozen` of a specification with one network, and that network."""
    torch.manual_seed(1)
    model = build("resnet-small", outputs=CLASSES).eval()
    save(folder / "network.safetensors", Network(model, "resnet-small", CLASSES, "small", *STATISTICS))
    given = {"network": str(folder / "network.safetensors"), "classes_per_step": None, "whitening": None}
    return {OUTSIDE: given}, model


def one_step(synthesis: Any) -> torch.Tensor:
    """Do one step of a loop of 8×8 images; return what the term adds to the loss."""
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.ReLU(), nn.Linear(4, CLASSES))
    synthesis.begin_pass(0)
    synthesis.watch(teacher)
    labels = synthesis.labels(torch.arange(CLASSES))
    images = synthesis.start(torch.ones(CLASSES, 3, 8, 8, requires_grad=True), labels)
    loss = nn.functional.cross_entropy(teacher(images), labels)
    total: torch.Tensor = synthesis.loss(loss, images=images, labels=labels, step=0) - loss
    return total


@pytest.mark.parametrize("in_loop", [True, False])
def test_a_term_is_the_mean_over_its_networks(tmp_path: Path, in_loop: bool) -> None:
    seen: dict[str, torch.Tensor] = {}

    def term(batch: Batch) -> torch.Tensor:
        seen[batch.teacher] = batch.embeddings.square().sum()
        return seen[batch.teacher]

    frozen, model = outside(tmp_path)
    added = one_step(varied(tmp_path, terms={"term": Term(term)}, in_loop=in_loop, frozen=frozen))
    assert set(seen) == ({"teacher", OUTSIDE} if in_loop else {OUTSIDE})
    torch.testing.assert_close(added, torch.stack(list(seen.values())).mean(), rtol=1e-5, atol=1e-5)
    expected = embed(model, torch.ones(CLASSES, 3, 8, 8)).square().sum()
    torch.testing.assert_close(seen[OUTSIDE].detach(), expected, rtol=1e-5, atol=1e-5)


def test_the_part_of_a_slot_in_use_is_what_is_embedded(tmp_path: Path) -> None:
    seen = []
    term = Term(lambda b: seen.append(b) or b.embeddings.sum())  # type: ignore[func-returns-value]
    synthesis = varied(tmp_path, terms={"term": term}, in_loop=False, frozen=outside(tmp_path)[0])
    synthesis.begin_pass(0)
    synthesis.watch(network())
    labels = synthesis.labels(torch.arange(CLASSES))
    images = synthesis.start(torch.ones(CLASSES, 3, 8, 8, requires_grad=True), labels)
    synthesis.in_use(labels, rows=[0, 1])
    total = synthesis.loss(images.sum() * 0, images=images, labels=labels, step=0)
    assert (len(seen[0].embeddings), seen[0].labels.tolist()) == (2, [0, 1])
    (gradient,) = torch.autograd.grad(total, images)
    assert gradient[:2].any()
    assert not gradient[2].any()


@pytest.mark.parametrize("in_loop", [True, False])
def test_what_the_loop_embeds_is_let_go_where_no_term_works_in_it(tmp_path: Path, in_loop: bool) -> None:
    terms: dict[str, object] = {"term": Term(lambda b: b.embeddings.sum())}
    frozen = {} if in_loop else outside(tmp_path)[0]
    synthesis = varied(tmp_path, terms=terms, in_loop=in_loop, frozen=frozen, embedder={"network": LOOP})
    made = torch.ones(1, 4)
    alive = weakref.ref(made)
    synthesis.embedded(made, torch.ones(1, 4))
    del made
    assert (alive() is not None) == in_loop


def run(cli: Cli, recipe: Path, network: str, *more: str) -> Any:
    line = ("run", "sre2l", "--recipe", recipe, "--engine", "native", "--dire", "--set", f"term.network={network}")
    return cli(*line, *more)


def test_several_networks_are_named_in_the_runs_provenance(cli: Cli, home: Path, recipe: Path) -> None:
    assert run(cli, recipe, "several").code == 0
    metrics = read_json(only_run(home) / "metrics.json")
    assert list(metrics["networks"]) == ["teacher", "independent", "frozen:resnet-small"]
    assert metrics["networks"]["teacher"] != metrics["networks"]["frozen:resnet-small"]


def test_each_network_follows_its_own_gradients(cli: Cli, home: Path, recipe: Path) -> None:
    assert run(cli, recipe, "several", "--set", "regularizers.dire.weight=auto").code == 0
    curves = read_json(only_run(home) / "losses.json")["slots"][0]["values"]
    assert {"dire/weight/teacher", "dire/weight/frozen:resnet-small"} <= set(curves)
    parts = [f"dire/{part}/{key}" for part in ("cd", "cdm", "edm") for key in ("teacher", "frozen:resnet-small")]
    assert_parts_add_up(curves, *parts)  # what a plugin records is named by the network, too


def test_arms_without_a_term_are_the_same_whatever_network_it_would_see(cli: Cli, home: Path, recipe: Path) -> None:
    line = ("compare", "sre2l", "--recipe", recipe, "--engine", "native", "--arms", "baseline,control,dire")
    assert cli(*line).code == 0
    before = {folder.name for folder in run_folders(home) if not folder.name.startswith("dire")}
    frozen = "squeeze.frozen.resnet-18={architecture: resnet-18, epochs: 1, augmentation: none}"
    answer = cli(*line, "--set", "term.network=frozen:resnet-18", "--set", frozen)
    assert answer.code == 0
    assert {folder.name for folder in run_folders(home) if not folder.name.startswith("dire")} == before
    assert len([folder for folder in run_folders(home) if folder.name.startswith("dire")]) == 2


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ("frozen:convnet-small", "is of the architecture of the independent network, which judges the images"),
        ("frozen:resnet-81", "'resnet-81' is unknown (did you mean 'resnet-18'"),
        ("frozne:resnet-18", "term.network: 'frozne:resnet-18' is none of loop, frozen:<architecture>, several"),
        ("[]", "term.network: must be loop, frozen:<architecture>, several, or a list of them"),
        ("[loop, loop]", "term.network: names a network twice"),
    ],
)
def test_a_network_that_cannot_serve_is_refused(
    cli: Cli, bare_home: Path, recipe: Path, network: str, message: str
) -> None:
    answer = run(cli, recipe, network)
    assert answer.code == 2
    assert message in answer.err
