"""Make images of real patches, RDED's, that the teacher scores: for the arm `rded`, and as a start of other methods.

`dire_plug/data/patches.py` has the rule. It is our own implementation of it: RDED's code isn't run. What differs: the
teacher T scores, whatever the method, with its own normalisation; crops are drawn for (seed, class, image) instead of
by the unseeded process; patches are rounded to uint8 before they are scored; and a class that has fewer images than
`mipc` gives all.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn import functional as F

from dire_plug import ui
from dire_plug.data import Dataset
from dire_plug.data.augmentation.batch import normalise
from dire_plug.data.patches import by_image, choose_patches, cut_patches, draw_squares, put_together, surround
from dire_plug.data.reading import load_ahead
from dire_plug.devices import upload
from dire_plug.errors import DirePlugError
from dire_plug.files import write_atomically
from dire_plug.models.checkpoint import Network, load
from dire_plug.recipe.model import RdedSection
from dire_plug.seeding import derive
from dire_plug.stages.artefacts import Networks
from dire_plug.stages.squeeze import network_file
from dire_plug.store.runs import Run
from dire_plug.training.transforms import BATCH

PATCHES = "patches.safetensors"
"""The file that says of which real images, and of which boxes of them, the images are made."""


def make_of_patches(run: Run, networks: Networks, *, sources: Path) -> Iterator[Tensor]:
    """Yield the images of each class, in the order of the classes: uint8, [ipc, 3, h, w], on the CPU.

    Args:
        sources: gets, after the last class, of each patch of each image, [C·ipc, factor², …]: `indices` in the
            training set, `boxes` (top, left, height, width) in the image as it was cropped, and `losses`.

    Raises:
        DirePlugError: a class has too few images, an image can't be decoded, a loss isn't finite.
    """
    section, ipc, size = run.recipe.rded, run.recipe.ipc, run.dataset.size
    factor = section.factor_at(size)
    check_patches(section, run.dataset, ipc=ipc)
    network = load(network_file(run, networks.teacher), run.device)
    network.model.eval()
    parts: list[dict[str, Tensor]] = []
    with ui.progress("patches of real images", run.classes) as advance:
        # a class's images are decoded and cropped while the device scores those of the one before
        ahead = load_ahead(partial(_cut, run), range(run.classes), ahead=1)
        for label, (indices, boxes, patches) in enumerate(ahead):
            losses = score_patches(network, patches.flatten(0, 1), label, size=size, device=run.device)
            losses = losses.reshape(boxes.shape[:2])
            rows, crops = choose_patches(losses, section.patches(ipc, size))
            chosen = {"indices": indices[rows], "boxes": boxes[rows, crops], "losses": losses[rows, crops]}
            parts.append({name: by_image(one, factor=factor) for name, one in chosen.items()})
            yield put_together(patches[rows, crops], size=size, factor=factor)
            advance(label + 1)
    write_atomically(sources, save({name: torch.cat([one[name] for one in parts]) for name in parts[0]}))


def _cut(run: Run, label: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the images of a class that are cropped, [n], their boxes, [n, k, 4], and patches, [n, k, 3, s, s]."""
    section, size = run.recipe.rded, run.dataset.size
    members = torch.nonzero(run.dataset.train.labels == label).flatten()
    generator = torch.Generator().manual_seed(derive(run.seed, "patches", label))
    order = torch.randperm(len(members), generator=generator)
    indices = members[order[: section.candidates(run.recipe.ipc, size)]]

    def draw(place: int, image: Tensor) -> Tensor:
        return draw_squares(image, section.num_crop, seed=derive(run.seed, "patches", label, "image", place))

    boxes, patches = cut_patches(run.dataset.train, indices, draw, side=size // section.factor_at(size))
    return indices, boxes, patches


@torch.no_grad()
def score_patches(network: Network, patches: Tensor, label: int, *, size: int, device: torch.device) -> Tensor:
    """Return the cross-entropy of each patch for its class: float32, [n], on the CPU.

    Args:
        network: in eval mode, on `device`.
        patches: uint8, [n, 3, s, s].
        size: of the images that the network takes, to which zeros surround the normalised patches.
    """
    losses = []
    for part in torch.split(patches, BATCH):
        images = surround(normalise(upload(part, device), network.mean, network.std), size)
        labels = torch.full((len(part),), label, device=device)
        losses.append(F.cross_entropy(network.model(images).float(), labels, reduction="none"))
    return torch.cat(losses).cpu()


def check_patches(section: RdedSection, dataset: Dataset, *, ipc: int) -> None:
    """Raise where patches would have no pixel, or a class has too few real images.

    Raises:
        DirePlugError: what doesn't fit, and what to lower.
    """
    if (factor := section.factor_at(dataset.size)) > dataset.size:
        raise DirePlugError(
            f"rded.factor: {factor} patches a side don't fit into {dataset.size} pixels; set it to {dataset.size} or "
            "less"
        )
    needed = section.patches(ipc, dataset.size)
    counts = torch.bincount(dataset.train.labels, minlength=len(dataset.classes))
    label = int(counts.argmin())
    if (least := int(counts[label])) < needed:
        raise DirePlugError(
            f"class '{dataset.classes[label]}' of {dataset.name} has {least} training images, and {ipc} images per "
            f"class of {factor}×{factor} patches need {needed}; lower the IPC or rded.factor, or raise the dataset's "
            "limit"
        )
