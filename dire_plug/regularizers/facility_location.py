"""The plugin `facility-location`: each real embedding is served by the synthetic one most like it.

    Σ_c [1 − mean_j max_i k(eᵢ, xⱼ)],     k(e, x) = cos(e, x), or exp(−‖e − x‖² / 2s²)

The facility-location function mean_j max_i k is submodular in the set of the eᵢ (Wei, Iyer & Bilmes, 2015; the paper
names submodular functions as future work, reference [1]). s is the mean distance of the class's real rows to their
mean. The maximum passes its gradient to one image for each real row. It is close to what coverage counts, so coverage
in T says little of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict

from dire_plug.hookspecs import hookimpl

if TYPE_CHECKING:
    from torch import Tensor

    from dire_plug.types import Batch, Synthesis


class FacilityLocationSettings(BaseModel):
    """What a recipe may say of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kernel: Literal["cosine", "rbf"] = "cosine"


class FacilityLocation:
    """Adds the facility-location term of each class in the embeddings of the network in the loop."""

    settings_model = FacilityLocationSettings

    def __init__(self, settings: FacilityLocationSettings) -> None:
        from dire_plug.regularizers.real import PreparedReals

        self.settings, self._prepared = settings, PreparedReals()

    @hookimpl
    def loss_term(self, synthesis: Synthesis, batch: Batch) -> Tensor:
        """Return the term of this step, a scalar.

        Raises:
            DirePlugError: a class in use has no real embedding, or the widths differ.
        """
        import torch

        from dire_plug.regularizers.class_rows import arrange
        from dire_plug.regularizers.kernels import cosine_kernel, rbf_kernel

        real = self._prepared.of(synthesis, batch.teacher)
        rows = arrange(batch.embeddings, batch.labels, real)
        if self.settings.kernel == "cosine":
            likeness = cosine_kernel(rows.made_whole, rows.real_whole)
        else:
            likeness = rbf_kernel(rows.made, rows.real, width=real.spreads[rows.places])
        best = likeness.masked_fill(~rows.here.unsqueeze(2), -torch.inf).amax(1)
        return (1 - (best * rows.real_here).sum(1) / rows.real_counts).sum()
