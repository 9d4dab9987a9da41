"""RDED's images through runs: the arm against a slow loop, its files and identity, the start of another method."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.cli import Cli
from support.small_run import native, only_run
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as transforms

from dire_plug import plugins
from dire_plug.data.augmentation.batch import normalise
from dire_plug.data.patches import draw_squares
from dire_plug.errors import DirePlugError
from dire_plug.models.checkpoint import load
from dire_plug.pipeline import Request, Run, plan_run, run_arm, with_data
from dire_plug.pipeline.request import check_counts
from dire_plug.recipe import counted
from dire_plug.seeding import derive
from dire_plug.stages.artefacts import name_images, name_inputs, name_networks, name_recovered, name_subset
from dire_plug.stages.prepare import prepare, start_file
from dire_plug.stages.squeeze import network_file, squeeze


def run_of(recipe: Path, arm: str = "rded", *settings: str, **more: Any) -> Run:
    return with_data(plan_run(native(recipe, arm, settings=settings, **more)))


def make_slowly(run: Run, label: int, *, factor: int) -> Tensor:
    """Return a class's images, patch by patch: every crop is scored by itself, and put where it belongs."""
    train, size, ipc = run.dataset.train, run.dataset.size, run.recipe.ipc
    network = load(network_file(run, squeeze(run).teacher), torch.device("cpu"))
    network.model.eval()
    members = torch.nonzero(train.labels == label).flatten()
    order = torch.randperm(len(members), generator=torch.Generator().manual_seed(derive(run.seed, "patches", label)))
    side = size // factor
    before = (size - side) // 2
    best = []
    for place, index in enumerate(members[order]):
        (image,) = train.images(index[None])
        boxes = draw_squares(image, 5, seed=derive(run.seed, "patches", label, "image", place))
        scored = []
        for crop, box in enumerate(boxes.tolist()):
            patch = transforms.resized_crop(image, *box, size=[side, side], antialias=True)
            padded = torch.zeros(1, 3, size, size)
            normalised = normalise(patch[None], network.mean, network.std)
            padded[:, :, before : before + side, before : before + side] = normalised
            with torch.no_grad():
                loss = F.cross_entropy(network.model(padded), torch.tensor([label]))
            scored.append((float(loss), place, crop, patch))
        best.append(min(scored, key=lambda one: one[:3]))
    best.sort(key=lambda one: one[:3])
    images = torch.empty(ipc, 3, size, size, dtype=torch.uint8)
    for rank, (_, _, _, patch) in enumerate(best[: ipc * factor**2]):
        row, column = divmod(rank // ipc, factor)
        images[rank % ipc, :, row * side : (row + 1) * side, column * side : (column + 1) * side] = patch
    return images


@pytest.mark.parametrize("factor", [1, 2])
def test_a_run_takes_what_a_slow_loop_makes(home: Path, recipe: Path, factor: int) -> None:
    settings = (f"rded.factor={factor}", "evaluate.epochs=1")
    metrics = run_arm(native(recipe, "rded", settings=settings)).metrics
    run, folder = run_of(recipe, "rded", *settings), only_run(home)
    found, sources = load_file(folder / "images.safetensors"), load_file(folder / "patches.safetensors")
    pixels = (found["images"] * 255).round().to(torch.uint8)
    for label in (0, 7):
        assert torch.equal(pixels[found["labels"] == label], make_slowly(run, label, factor=factor))
    assert found["labels"].tolist() == [label for label in range(10) for _ in "ab"]
    assert found["numbers"].tolist() == [0, 1] * 10
    assert sources["boxes"].shape == (20, factor**2, 4)
    labels = run.dataset.train.labels[sources["indices"]]
    assert torch.equal(labels, found["labels"][:, None].expand(20, factor**2))
    assert len(list((folder / "images").rglob("*.jpg"))) == 20
    assert (metrics["engine"], metrics["recover"]) == ("none", None)


def subset(run: Run) -> str:
    return name_subset(run, name_networks(run)).name


def test_what_decides_the_images_is_in_their_name_and_in_no_others(recipe: Path) -> None:
    own = subset(run_of(recipe))
    for change in ("rded.factor=2", "rded.num_crop=1", "rded.mipc=5", "squeeze.teacher.epochs=2"):
        assert subset(run_of(recipe, "rded", change)) != own, change
    assert subset(run_of(recipe, seed=1)) != own
    # what the defaults come to is the same set
    assert subset(run_of(recipe, "rded", "rded.factor=1", "rded.mipc=300")) == own
    assert subset(run_of(recipe, "random", "rded.factor=2")) == subset(run_of(recipe, "random"))


def test_rdeds_settings_count_where_its_images_are_made(recipe: Path) -> None:
    def identity(arm: str, *settings: str) -> dict[str, Any]:
        resolved = plan_run(native(recipe, arm, settings=settings)).resolved
        return counted(resolved.recipe.model_dump(mode="json"), arm=arm, regularizers=resolved.regularizers)

    assert identity("rded", "rded.num_crop=2") != identity("rded")
    assert identity("baseline", "rded.num_crop=2") == identity("baseline")
    start = "recover.start=rded"
    assert identity("baseline", start, "rded.num_crop=2") != identity("baseline", start)


def test_a_loop_starts_from_the_images_of_the_arm(home: Path, recipe: Path) -> None:
    run = run_of(recipe, "baseline", "recover.start=rded")
    file = start_file(run, prepare(run, squeeze(run)))
    assert file is not None
    start = load_file(file)["images"]
    assert (start.dtype, start.shape) == (torch.uint8, (10, 2, 3, 8, 8))
    for label in (0, 7):
        assert torch.equal(start[label], make_slowly(run, label, factor=1))


def test_a_synthesis_goes_from_rdeds_images_to_students(home: Path, recipe: Path) -> None:
    settings = ("recover.start=rded", "recover.flags.iteration=1", "recover.flags.lr=1e-9", "evaluate.epochs=1")
    run_arm(native(recipe, settings=settings))
    run = run_of(recipe, "baseline", *settings)
    file = start_file(run, name_inputs(run, name_networks(run)))
    assert file is not None
    images = load_file(only_run(home) / "images.safetensors")["images"]
    assert torch.allclose(images, load_file(file)["images"].flatten(0, 1).float() / 255, atol=1e-4)


@pytest.mark.parametrize("method", plugins.known("methods"))
def test_a_method_starts_from_rdeds_images_or_says_what_it_takes(bare_home: Path, method: str) -> None:
    request = Request(method, recipe="quick", settings=("recover.start=rded",))
    if method in ("delt", "mtt", "dm"):
        with pytest.raises(DirePlugError, match=r"recover\.start: must be '(own|real)'"):
            plan_run(request, dry=True)
    else:
        assert plan_run(request, dry=True).recipe.recover.is_given_a_start


def test_passes_from_rdeds_images_belong_to_one_ipc(recipe: Path) -> None:
    def first_pass(start: str, ipc: int) -> str:
        run = run_of(recipe, "baseline", f"recover.start={start}", ipc=ipc)
        networks = name_networks(run)
        inputs = name_inputs(run, networks)
        return next(iter(name_images(name_recovered(run, networks, inputs, {})[1]).inputs.values())).name

    assert first_pass("real", 2) == first_pass("real", 3)
    assert first_pass("rded", 2) != first_pass("rded", 3)


def test_more_patches_than_a_class_has_images_are_refused_before_training(cli: Cli, home: Path, recipe: Path) -> None:
    answer = cli("run", "sre2l", "--recipe", recipe, "--arm", "rded", "--ipc", "3", "--set", "rded.factor=2")
    assert (answer.code, answer.out) == (2, "")
    assert "class '0' of digits has 10 training images, and 3 images per class of 2×2 patches need 12" in answer.err
    with pytest.raises(DirePlugError, match=r"rded.factor: 9 patches a side don't fit into 8 pixels"):
        check_counts(run_of(recipe, "rded", "rded.factor=9"))


def test_the_default_puts_one_patch_into_small_images_and_four_into_large(recipe: Path) -> None:
    section = plan_run(native(recipe, "rded")).recipe.rded
    assert [section.factor_at(size) for size in (8, 32, 64, 128, 224)] == [1, 1, 1, 2, 2]
    assert [section.candidates(ipc, 224) for ipc in (10, 75, 100)] == [300, 300, 400]
