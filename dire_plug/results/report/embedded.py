"""Embed the condensed images of runs in their teacher T; the real ones' embeddings come from the store."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from dire_plug import ui
from dire_plug.errors import DirePlugError
from dire_plug.results.report.images import MISSING, REMADE, find_embedded, read_condensed, shown_classes
from dire_plug.results.report.runs import ReportRun
from dire_plug.stages.embed import FILE, embedder
from dire_plug.stages.squeeze import FILE as NETWORK

Embedded = tuple[Tensor, Tensor]
"""Embeddings of images in one network, [n, D] in float32, and their labels, [n] in int64, ascending."""


def embed_runs(runs: Mapping[str, ReportRun], *, device: str = "cpu") -> tuple[dict[str, Embedded], Embedded]:
    """Embed the images of runs, by label, and the real training images in the teacher of the first run.

    Raises:
        DirePlugError: the teacher, or the real images in it, aren't in the store, an image is damaged, or there is no
            run.
    """
    if not runs:
        raise DirePlugError(MISSING)
    teacher, real = find_embedded(next(iter(runs.values())))
    return {name: _embed(run, teacher / NETWORK, device=device) for name, run in runs.items()}, _read(real / FILE)


def _embed(run: ReportRun, teacher: Path, *, device: str) -> Embedded:
    """Embed the condensed images of a run, at most so many as `shown_classes` allows, in a network.

    Raises:
        DirePlugError: an image or the network can't be read.
    """
    embed = embedder(teacher, torch.device(device))
    values, labels, classes = [], [], shown_classes(run)
    with ui.progress(f"report: {run.name} in the teacher, classes", len(classes)) as advance:
        for done, (label, images) in enumerate(zip(classes, read_condensed(run, classes), strict=True), start=1):
            pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
            values.append(embed(pixels.to(device)).cpu())  # the device holds one class at a time
            labels += [label] * len(images)
            advance(done)
    return torch.cat(values), torch.tensor(labels)


def _read(file: Path) -> Embedded:
    try:
        found = load_file(file)
        return found["values"], found["labels"]
    except (OSError, KeyError, SafetensorError) as error:
        raise DirePlugError(f"{file}: cannot be read ({error}); {REMADE}") from error
