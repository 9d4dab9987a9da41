"""The test term of `dire-plug verify`: different for each row, label, network and real row: a mix-up of them shows."""

from __future__ import annotations

import math
import zlib

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from dire_plug.api.real_embeddings import prepare_real
from dire_plug.hookspecs import hookimpl
from dire_plug.types import EDGE, Batch, Synthesis

WEIGHT = 1e-3
SEED = 1
"""Seeds the start images that the probe answers with."""
RANGE = 0.9
"""Their largest value: within what every script clips to, so that clipping alone moves none of them."""
OUTSIDE = 3.0
"""In every `EDGE`-th column they are ±3, outside of what any script clips to, so that clipping acts."""


class ProbeSettings(BaseModel):
    """The probe has no settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Probe:
    """Adds λ · mean(W ⊙ (u + u²)) to the loss: u are the embeddings, [n, D], in units of the largest one.

    W[i, d] = cos(0.7 d + 1.3 y_i + 2.1 i + φ) + r[y_i, d], for row i with the label y_i: φ is of the network's key, and
    r[y] the mean of the real embeddings of a class, in units of the largest value of all. Embeddings of deep untrained
    networks may be 10⁻¹³, whose squares no loss would feel: hence the units. `upstream/verify/observe.py` has the same
    term, written apart.

    Attributes:
        weight: λ; `verify` sets it before each step.
        labels: those of the last step, [n].
        answers: whether to answer with start images, where the adapter leaves a script its own.
    """

    settings_model = ProbeSettings

    def __init__(self, settings: ProbeSettings) -> None:
        """Make the probe."""
        self.weight = WEIGHT
        self.labels: Tensor | None = None
        self.answers = False

    @hookimpl
    def loss_term(self, synthesis: Synthesis, batch: Batch) -> Tensor:
        """Return the term of one step."""
        embeddings, self.labels = batch.embeddings, batch.labels
        real = synthesis.real(batch.teacher)
        block = prepare_real(real).block(batch.labels, paired=False, distances=False)
        count, width = embeddings.shape
        largest = embeddings.detach().abs().amax().clamp_min(torch.finfo(embeddings.dtype).tiny)
        rows = 1.3 * batch.labels.double() + 2.1 * torch.arange(count, dtype=torch.double, device=embeddings.device)
        columns = 0.7 * torch.arange(width, dtype=torch.double, device=embeddings.device)
        phase = 2 * math.pi * zlib.crc32(batch.teacher.encode()) / 2**32
        directions = torch.cos(rows[:, None] + columns + phase).to(embeddings.dtype)  # in float64: the angles are large
        means = block.means[block.groups.owner] / real.values.abs().amax().clamp_min(torch.finfo(embeddings.dtype).tiny)
        directions = directions + means.to(embeddings.dtype)
        units = embeddings / largest
        return self.weight * (directions * (units + units.square())).mean()

    @hookimpl
    def initial_images(self, images: Tensor) -> Tensor | None:
        """Return seeded images of the script's own shape, [N, 3, H, W]; None where `answers` is off."""
        if not self.answers:
            return None
        drawn = (2 * torch.rand(images.shape, generator=torch.Generator().manual_seed(SEED)) - 1) * RANGE
        drawn[..., ::2, ::EDGE], drawn[..., 1::2, ::EDGE] = -OUTSIDE, OUTSIDE
        return drawn.to(images.device, images.dtype)
