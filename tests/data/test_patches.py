"""Images of real patches: RDED's rule against a slow obvious loop, by hand, and against RDED's own functions."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from support.own_images import write_photos
from support.upstreams import fetch_rded_or_skip
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as transforms

from dire_plug.data.dataset import TensorSplit
from dire_plug.data.folders import list_images, make_folder_split
from dire_plug.data.patches import by_image, choose_patches, cut_patches, draw_squares, put_together, surround
from dire_plug.errors import DirePlugError


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Which patches.


def choose_slowly(losses: list[list[float]], count: int) -> list[tuple[int, int]]:
    """Take the best crop of every image, then again and again the image whose best crop has the lowest loss."""
    best = [min(range(len(row)), key=lambda crop, row=row: row[crop]) for row in losses]  # type: ignore[misc]
    left, chosen = list(range(len(losses))), list[tuple[int, int]]()
    while len(chosen) < count:
        row = min(left, key=lambda row: losses[row][best[row]])
        left.remove(row)
        chosen.append((row, best[row]))
    return chosen


@pytest.mark.parametrize("count", [1, 7, 30])
@pytest.mark.parametrize("levels", [1000, 3])
def test_the_choice_is_that_of_a_slow_loop(count: int, levels: int) -> None:
    # of three levels there are ties everywhere: the earlier crop and the earlier image go first
    losses = torch.randint(0, levels, (30, 5), generator=seeded(count)).float()
    rows, crops = choose_patches(losses, count)
    assert list(zip(rows.tolist(), crops.tolist(), strict=True)) == choose_slowly(losses.tolist(), count)


def test_the_choice_by_hand() -> None:
    losses = torch.tensor([[3.0, 2.0], [0.5, 9.0], [7.0, 1.0]])
    rows, crops = choose_patches(losses, 2)
    assert (rows.tolist(), crops.tolist()) == ([1, 2], [0, 1])


@pytest.mark.parametrize(
    ("losses", "count", "message"),
    [
        (torch.zeros(3, 2), 4, "4 patches can't be chosen out of 3; ask for 1 to 3"),
        (torch.zeros(3, 2), 0, "0 patches can't be chosen out of 3"),
        (torch.tensor([[1.0, math.nan], [math.inf, 0.0]]), 1, "the teacher's loss is NaN or infinity for 2 of 4"),
    ],
)
def test_what_can_not_be_chosen_from_is_refused(losses: Tensor, count: int, message: str) -> None:
    with pytest.raises(DirePlugError, match=message):
        choose_patches(losses, count)


# Crops.


def test_boxes_are_squares_of_the_area_that_torchvision_takes() -> None:
    boxes = draw_squares(torch.empty(3, 300, 200), 2000, seed=1)
    top, left, height, width = boxes.unbind(1)
    assert torch.equal(height, width)
    assert int(width.max()) <= 200
    # a side of √(.08 · 60,000) = 69.3 pixels at least
    assert int(width.min()) == 69
    assert min(int(top.min()), int(left.min())) == 0
    assert int((top + height).max()) == 300
    assert int((left + width).max()) == 200


def test_the_seed_decides_the_boxes() -> None:
    image = torch.empty(3, 32, 32)
    assert torch.equal(draw_squares(image, 5, seed=3), draw_squares(image, 5, seed=3))
    assert not torch.equal(draw_squares(image, 5, seed=3), draw_squares(image, 5, seed=4))


def test_images_in_memory_are_cropped_as_the_dataset_has_them() -> None:
    pixels = torch.randint(0, 256, (4, 3, 12, 12), dtype=torch.uint8, generator=seeded())
    split = TensorSplit(pixels, torch.zeros(4, dtype=torch.int64))
    wanted = torch.tensor([[0, 0, 6, 6], [3, 5, 6, 6]])
    boxes, patches = cut_patches(split, torch.tensor([2, 0]), lambda place, image: wanted, side=6)
    assert torch.equal(boxes, wanted.expand(2, 2, 4))
    assert torch.equal(patches[0, 0], pixels[2, :, 0:6, 0:6])
    assert torch.equal(patches[1, 1], pixels[0, :, 3:9, 5:11])


def test_images_in_files_are_cropped_whole_before_anything_is_cut_off(tmp_path: Path) -> None:
    write_photos(tmp_path, count=3, classes=("cross",))
    files = list_images(tmp_path / "cross", 0)
    split = make_folder_split(tmp_path, files, size=16)
    seen = {}

    def draw(place: int, image: Tensor) -> Tensor:
        seen[place] = tuple(image.shape)
        return torch.tensor([[0, 0, 20, 20]])

    _, patches = cut_patches(split, torch.tensor([1, 0]), draw, side=10)
    for place, index in enumerate((1, 0)):
        whole = torch.from_numpy(np.array(Image.open(files[index].path).convert("RGB"))).permute(2, 0, 1)
        assert seen[place] == tuple(whole.shape)
        assert torch.equal(patches[place, 0], transforms.resized_crop(whole, 0, 0, 20, 20, size=[10, 10]))


def test_a_patch_stands_in_the_middle_of_zeros() -> None:
    found = surround(torch.ones(1, 3, 2, 2), 5)
    assert found[0, 0].tolist() == [[0] * 5, [0, 1, 1, 0, 0], [0, 1, 1, 0, 0], [0] * 5, [0] * 5]


# Images of patches.


def test_the_best_patches_are_the_top_left_corners() -> None:
    patches = torch.arange(8, dtype=torch.uint8)[:, None, None, None].expand(8, 3, 2, 2)
    images = put_together(patches, size=4, factor=2)
    assert images[0, 0].tolist() == [[0, 0, 2, 2], [0, 0, 2, 2], [4, 4, 6, 6], [4, 4, 6, 6]]
    assert images[1, 0, ::2, ::2].tolist() == [[1, 3], [5, 7]]
    assert by_image(torch.arange(8), factor=2).tolist() == [[0, 2, 4, 6], [1, 3, 5, 7]]


def test_one_patch_is_the_image() -> None:
    patches = torch.randint(0, 256, (3, 3, 7, 7), dtype=torch.uint8, generator=seeded())
    assert torch.equal(put_together(patches, size=7, factor=1), patches)


def test_of_a_size_that_is_no_multiple_the_first_patches_are_larger() -> None:
    patches = torch.arange(4, dtype=torch.uint8)[:, None, None, None].expand(4, 3, 2, 2)
    assert put_together(patches, size=5, factor=2)[0, 0].tolist() == [[0, 0, 0, 1, 1]] * 3 + [[2, 2, 2, 3, 3]] * 2


# RDED's own functions, on the same crops.

CASES = ((16, 1), (16, 2), (17, 2))
"""Size and factor."""
OWN = """
import sys
import torch
from safetensors.torch import load_file, save_file
tree, file, out = sys.argv[1:]
given, found = load_file(file), {}
sys.path.insert(0, tree)
sys.argv = ["main.py"]
torch.Tensor.cuda = lambda self, *rest: self
from synthesize import utils
head = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(4), torch.nn.Flatten(), torch.nn.Linear(48, 10))
head[2].weight.data, head[2].bias.data = given.pop("weight"), given.pop("bias")
for name, patches in given.items():
    size, factor, ipc = map(int, name.split())
    labels = torch.full((len(patches),), 3)
    chosen = utils.selector(ipc * factor**2, head, patches, labels, size, m=patches.shape[1])
    found[f"{name} chosen"] = chosen.contiguous()
    found[f"{name} images"] = utils.mix_images(chosen, size, factor, ipc)
save_file(found, out)
"""
"""Runs in a process of its own: RDED's modules read a command line and change torchvision when they are imported."""


@pytest.mark.slow
@pytest.mark.upstream
def test_rdeds_own_functions_choose_and_join_the_same_patches(tmp_path: Path) -> None:
    tree, ipc, head = fetch_rded_or_skip(tmp_path / "rded"), 3, nn.Linear(48, 10)
    drawn = {(size, factor): torch.randn(40, 5, 3, *[size // factor] * 2, generator=seeded()) for size, factor in CASES}
    tensors = {f"{size} {factor} {ipc}": patches for (size, factor), patches in drawn.items()}
    tensors |= {"weight": head.weight.detach(), "bias": head.bias.detach()}
    save_file(tensors, tmp_path / "given.safetensors")
    arguments = map(str, (tree, tmp_path / "given.safetensors", tmp_path / "own"))
    line = [sys.executable, "-W", "ignore", "-c", OWN, *arguments]
    # its modules make folders where they are imported
    subprocess.run(line, check=True, cwd=tmp_path, capture_output=True)
    own = load_file(tmp_path / "own")
    network = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), head)
    for (size, factor), patches in drawn.items():
        with torch.no_grad():
            logits = network(surround(patches.flatten(0, 1), size))
        losses = nn.functional.cross_entropy(logits, torch.full((200,), 3), reduction="none").reshape(40, 5)
        rows, crops = choose_patches(losses, ipc * factor**2)
        assert torch.equal(patches[rows, crops], own[f"{size} {factor} {ipc} chosen"])
        images = put_together(patches[rows, crops], size=size, factor=factor)
        assert torch.equal(images, own[f"{size} {factor} {ipc} images"])
