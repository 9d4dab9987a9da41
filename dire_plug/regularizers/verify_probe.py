"""The test term of `dire-plug verify`: different for each row and label, so that a mix-up of them shows."""

from __future__ import annotations

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from dire_plug.hookspecs import hookimpl
from dire_plug.types import Batch

WEIGHT = 1e-3
SEED = 1
"""Seeds the start images that the probe answers with."""
RANGE = 0.9
"""Their largest value: within what every script clips to, so that clipping alone moves none of them."""


class ProbeSettings(BaseModel):
    """The probe has no settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Probe:
    """Adds λ · mean(W ⊙ (u + u²)) to the loss: u are the embeddings, [n, D], in units of the largest one.

    W[i, d] = cos(0.7 d + 1.3 y_i + 2.1 i), for row i with the label y_i. Embeddings of deep untrained networks may be
    10⁻¹³, whose squares no loss would feel: hence the units. `upstream/verify/observe.py` has the same term, written
    apart.

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
    def loss_term(self, batch: Batch) -> Tensor:
        """Return the term of one step."""
        embeddings, self.labels = batch.embeddings, batch.labels
        count, width = embeddings.shape
        largest = embeddings.detach().abs().amax().clamp_min(torch.finfo(embeddings.dtype).tiny)
        rows = 1.3 * batch.labels.double() + 2.1 * torch.arange(count, dtype=torch.double, device=embeddings.device)
        columns = 0.7 * torch.arange(width, dtype=torch.double, device=embeddings.device)
        directions = torch.cos(rows[:, None] + columns).to(embeddings.dtype)  # in float64: the angles are large
        units = embeddings / largest
        return self.weight * (directions * (units + units.square())).mean()

    @hookimpl
    def initial_images(self, images: Tensor) -> Tensor | None:
        """Return seeded images of the script's own shape, [N, 3, H, W]; None where `answers` is off."""
        if not self.answers:
            return None
        drawn = torch.rand(images.shape, generator=torch.Generator().manual_seed(SEED))
        return ((2 * drawn - 1) * RANGE).to(images.device, images.dtype)
