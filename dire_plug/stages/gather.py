"""Gather the passes of a finished synthesis into the run's files: tensors, losses, and what the script learned."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from dire_plug import ui
from dire_plug.files import read_json, write_atomically, write_json
from dire_plug.stages.images import TENSORS, save_images
from dire_plug.stages.job import LOSSES, WHITENING, Job
from dire_plug.synthesis import collect, gather_losses
from dire_plug.types import EXTRAS, Plan

if TYPE_CHECKING:
    from torch import Tensor

MOST_BYTES = 4 << 30
"""Passes are gathered into one file up to this size."""


def gather_tensors(job: Job, plan: Plan) -> None:
    """Gather the passes into images.safetensors, and into images/ where the script saved no files itself.

    `images` [N, 3, H, W] in [0, 1], `labels` and `numbers` [N], by class; where the script saved no files also `loop`,
    the same images in the loop's own space, normalised or whitened, which is not bounded. Sets that would not fit in
    memory several times over stay in `passes/`, in the loop's space.
    """
    from safetensors.torch import save

    passes = job.folder / "passes"
    if (extras := passes / EXTRAS).is_file():
        write_json(job.folder / EXTRAS, read_json(extras))
    if (losses := gather_losses(passes, plan.passes)) is not None:
        write_json(job.folder / LOSSES, losses)
        _tell_of_coreset(job, losses["mean"])
    if sum(file.stat().st_size for file in passes.iterdir()) > MOST_BYTES:
        ui.say(f"recover: the tensors stay in {passes}: more than {MOST_BYTES >> 30} GiB")
        return
    images, labels, numbers = collect(passes, plan.passes)
    pixels = _to_pixels(job, images).contiguous()
    tensors = {"images": pixels, "labels": labels, "numbers": numbers}
    if not job.adapter.saves_images:
        folder = job.folder / "images"
        save_images(folder, job.adapter, images=pixels, labels=labels.tolist(), numbers=numbers.tolist())
        tensors["loop"] = images.contiguous()
    write_atomically(job.folder / TENSORS, save(tensors))
    shutil.rmtree(passes, ignore_errors=True)


def _tell_of_coreset(job: Job, curves: Mapping[str, Sequence[float | None]]) -> None:
    """Say how far EDM through the recipe's coreset is from the exact one, at the first and the last step."""
    errors = next((curve for name, curve in curves.items() if "/edm error" in name), None)
    cosines = next((curve for name, curve in curves.items() if "/edm gradient" in name), None)
    if errors is None or cosines is None:
        return
    at = " and ".join(
        f"{100 * error:.2g} % with a gradient at cosine {cosine:.4f} ({when} step)"
        for error, cosine, when in ((errors[0], cosines[0], "first"), (errors[-1], cosines[-1], "last"))
        if error is not None and cosine is not None
    )
    ui.say(f"recover: EDM by a coreset of {job.recipe.real.coreset} a class: off by {at}")


def _to_pixels(job: Job, images: Tensor) -> Tensor:
    """Return images of the loop's space with values in [0, 1]; what lies outside is clipped."""
    import torch

    from dire_plug.data.augment import denormalise

    if not job.adapter.whitens(job.recipe.recover):
        return denormalise(images, job.script.mean, job.script.std)
    from dire_plug.data.whitening import load

    return load(job.folder / WHITENING, torch.device("cpu")).invert(images).clamp(0, 1)
