"""The test term of `dire-plug verify`: it changes every step a little, which shows that the patch reaches the loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from dire_plug.hookspecs import hookimpl

if TYPE_CHECKING:
    from torch import Tensor

    from dire_plug.types import Batch

WEIGHT = 1e-3


class ProbeSettings(BaseModel):
    """The probe has no settings."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Probe:
    """Adds 10⁻³ times the mean square of the embeddings, in units of the largest one, to the loss.

    In those units because embeddings of deep untrained networks may be 10⁻¹³, whose squares no loss would feel.
    """

    settings_model = ProbeSettings

    def __init__(self, settings: ProbeSettings) -> None:
        """Make the probe."""

    @hookimpl
    def loss_term(self, batch: Batch) -> Tensor:
        """Return the term of one step."""
        import torch

        embeddings = batch.embeddings
        largest = embeddings.detach().abs().amax().clamp_min(torch.finfo(embeddings.dtype).tiny)
        return WEIGHT * (embeddings / largest).square().mean()
