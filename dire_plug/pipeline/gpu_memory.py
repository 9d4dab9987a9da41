"""Estimate the GPU memory of a synthesis, and refuse a GPU that is too small before anything is trained.

Counted is what a step can't do without: the bytes that autograd keeps, networks, images, real embeddings. The
allocator, workspaces, augmentations and hooks of a script take more, so a GPU that is refused is too small, and one
that isn't may still be. Counts were compared with what torch takes on a CPU; nothing was measured on a GPU.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import torch

from dire_plug.acceleration import BF16
from dire_plug.errors import DirePlugError
from dire_plug.files import format_bytes
from dire_plug.models.small_networks import CONVNETS
from dire_plug.pipeline.network_costs import ImageCost, count_pass, count_unrolled
from dire_plug.stages.artefacts import Role, roles_frozen, roles_in_loop
from dire_plug.store.runs import Run
from dire_plug.types import Slot
from dire_plug.types.artefact import Artefact

FORCE = "DIRE_PLUG_ANY_GPU"
"""The environment variable with which a synthesis starts whatever the GPU's memory."""
COPIES = 3
"""Tensors of the size of a batch: the images, their gradient, and at least one more (a moment of the optimizer, or the
untouched images of INFER)."""
MOST_GPUS = 16
"""The largest number that an error suggests."""


def check_gpu_memory(run: Run, passes: Sequence[Artefact], *, total: int | None) -> None:
    """Raise where a run's synthesis isn't finished and can't fit into the GPU.

    Args:
        passes: those of the synthesis; empty where images are real.
        total: bytes of the GPU, as `gpu_memory` returns them; None where the device is none.

    Raises:
        DirePlugError: the estimate, the GPU's memory, and what can be done.
    """
    if total is None or all(map(run.store.has, passes)) or os.environ.get(FORCE, "0") not in ("", "0"):
        return
    gpus = run.gpus
    parts = count_synthesis(run, gpus=gpus)
    if (needed := sum(parts.values())) <= total:
        return
    ways = ["take a GPU with more memory"]
    if run.script.several_gpus:
        enough = (
            one for one in range(gpus + 1, MOST_GPUS + 1) if sum(count_synthesis(run, gpus=one).values()) <= total
        )
        if (several := next(enough, None)) is not None:
            ways.append(f"give the script several: --executor local --gpus-per-job {several}")
    ways.append("make a step smaller, which changes the result: --set recover.flags.…")
    listed = ", ".join(f"{format_bytes(size)} for {what}" for what, size in parts.items())
    raise DirePlugError(
        f"{run.adapter.name} {run.recipe.name}, {run.arm}, IPC {run.recipe.ipc}: a step of the synthesis needs at "
        f"least {format_bytes(needed)} of {'memory on each GPU' if gpus > 1 else 'GPU memory'} ({listed}); the GPU has "
        f"{format_bytes(total)}. You can {'; '.join(ways)}; or start it anyway: {FORCE}=1"
    )


def gpu_memory(device: torch.device, *, gpus: int = 1) -> int | None:
    """Return the bytes of the smallest of some GPUs, from `device` on; None where the device is no GPU.

    Raises:
        DirePlugError: there are fewer GPUs.
    """
    if device.type != "cuda":
        return None
    first, there = device.index or 0, torch.cuda.device_count()
    if first + gpus > there:
        raise DirePlugError(f"--gpus-per-job {gpus}: from {device} on torch sees {there - first}; lower the number")
    return min(int(torch.cuda.get_device_properties(first + one).total_memory) for one in range(gpus))


def count_synthesis(run: Run, *, gpus: int = 1) -> dict[str, int]:
    """Return what → the bytes that the largest step of a synthesis holds on one GPU.

    Args:
        gpus: over which the script spreads a step.
    """
    batch = max(len(run.plan.slot(Slot(0, number)).labels) for number in range(run.plan.slots_per_pass))
    size = run.dataset.size
    found = {"images": COPIES * batch * 3 * size**2 * 4}
    if (work := run.adapter.work(run.recipe)) is None:
        roles = roles_in_loop(run)
        costs = [count_inverted(run, role) for role in roles]
        # where networks take turns, one of them holds a graph at a time
        together = run.adapter.networks_in_step(run.recipe.recover)
        largest = sorted(range(len(roles)), key=lambda number: -costs[number].kept)[:together]
        names = " and ".join(roles[number].section.architecture for number in largest)
        # counted in float32; autocast, the script's own or that of `--accelerate fast`, keeps two bytes
        halved = run.script.autocast or BF16 in run.components.names
        kept = sum(costs[number].kept for number in largest) // (2 if halved else 1)
        found[f"{batch} images in {names}"] = batch * kept
        # a gradient beside each weight where the script doesn't freeze its networks
        found["networks"] = sum(one.weights for one in costs) * (1 if freezes(run) else 2)
    elif work.unrolled:
        step = count_unrolled(architecture=work.network, outputs=run.classes, stem=run.script.stem, size=size)
        images = min(work.batch or batch, batch)
        graph = work.unrolled * (-(-images // gpus) * step.kept + step.fixed)
        found[f"the graph of {work.unrolled} training steps of {images} images in {work.network}"] = graph
    else:
        one = count_own(run, work.network)
        found[f"{batch} images in {work.network}"] = batch * one.kept + one.weights
    if run.regularizers:
        found |= _count_term(run, batch)
    return found


def _count_term(run: Run, batch: int) -> dict[str, int]:
    """Return the same of the networks outside of the loop in which terms work, and of the real embeddings."""
    found, section = {}, run.recipe.recover.embedder
    outside = [(role, batch) for role in roles_frozen(run)]
    if section is not None and section.network != "loop":
        outside.append((roles_in_loop(run)[0], batch * (section.classes_per_step or run.classes) // run.classes))
    for role, images in outside:
        one = count_inverted(run, role)
        found[f"{images} images in the term's {role.section.architecture}"] = images * one.kept + one.weights
    real = run.recipe.real.per_class
    rows = len(run.dataset.train) if real is None else min(real * run.classes, len(run.dataset.train))
    widths = [count_inverted(run, role).width for role in term_roles(run)]
    return {**found, "real embeddings": rows * sum(widths) * 4}


def term_roles(run: Run) -> list[Role]:
    """Return the networks whose real embeddings the terms of a run need; an expert counts as T."""
    section = run.recipe.recover.embedder
    if section is None:
        return [*roles_in_loop(run), *roles_frozen(run)]
    return [*(roles_in_loop(run)[:1] if section.network != "loop" else []), *roles_frozen(run)]


def count_inverted(run: Run, role: Role) -> ImageCost:
    """Return the cost of an image in one of a run's networks, frozen."""
    return count_role(run, role, inverted=True)


def count_role(run: Run, role: Role, *, inverted: bool = False) -> ImageCost:
    """Return the cost of an image in one of a run's networks."""
    # other networks are the same either way, and are counted once
    flat = role.section.head == "flat" or role.section.architecture not in CONVNETS
    return count_pass(
        architecture=role.section.architecture,
        outputs=role.outputs,
        stem=role.stem,
        size=run.dataset.size,
        flat=flat,
        inverted=inverted,
    )


def count_own(run: Run, architecture: str) -> ImageCost:
    """Return the cost of an image in a network that is none of the recipe's: a student, or the loop's own."""
    return count_pass(
        architecture=architecture, outputs=run.recipe.squeeze.outputs, stem=run.script.stem, size=run.dataset.size
    )


def freezes(run: Run) -> bool:
    """Return whether a run's networks need no gradient in the loop."""
    return not run.adapter.freezes_after_first_step or run.request.accelerate != "none"
