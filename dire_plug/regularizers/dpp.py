"""The plugin `dpp`: the volume that the synthetic embeddings of a class span, by a determinantal point process.

    −Σ_c log det(K_c + ε·I) / n,     K_ij = cos(eᵢ, eⱼ), or exp(−‖eᵢ − eⱼ‖² / 2s²)

A determinantal point process gives a set the probability det K (Kulesza & Taskar, 2012); the paper names it as future
work for diversity (reference [3], Celis et al., 2018). s is the mean distance of the class's real rows to their mean;
ε keeps equal rows finite. It only spreads: add EDM, which holds images near the real ones (`--regularizer dpp
--regularizer dire`, components [edm]). Vendi is a function of the same matrix, so Vendi in T says little of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from dire_plug.hookspecs import hookimpl

if TYPE_CHECKING:
    from torch import Tensor

    from dire_plug.types import Batch, Synthesis


class DPPSettings(BaseModel):
    """What a recipe may say of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kernel: Literal["cosine", "rbf"] = "rbf"
    epsilon: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-3
    """Added to the kernel's diagonal."""


class DPP:
    """Adds the negative log-determinant of each class in the embeddings of the network in the loop."""

    settings_model = DPPSettings

    def __init__(self, settings: DPPSettings) -> None:
        from dire_plug.regularizers.real import PreparedReals

        self.settings, self._prepared = settings, PreparedReals()

    @hookimpl
    def loss_term(self, synthesis: Synthesis, batch: Batch) -> Tensor:
        """Return the term of this step, a scalar; without gradient at one image per class.

        Raises:
            DirePlugError: a class in use has no real embedding, or the widths differ.
        """
        from dire_plug.regularizers.class_rows import arrange
        from dire_plug.regularizers.kernels import cosine_kernel, rbf_kernel

        real = self._prepared.of(synthesis, batch.teacher)
        rows = arrange(batch.embeddings, batch.labels, real)
        if self.settings.kernel == "cosine":
            likeness = cosine_kernel(rows.made_whole, rows.made_whole)
        else:
            likeness = rbf_kernel(rows.made, rows.made, width=real.spreads[rows.places])
        return -(log_determinants(likeness, rows.here, self.settings.epsilon) / rows.counts).sum()


def log_determinants(likeness: Tensor, here: Tensor, epsilon: float) -> Tensor:
    """Return, [C], log det(K + ε·I) of the rows that are no padding; `likeness` is [C, n, n], `here` [C, n]."""
    import torch

    both = here.unsqueeze(2) & here.unsqueeze(1)
    padding = torch.diag_embed((~here).to(likeness.dtype))
    ridge = epsilon * torch.diag_embed(here.to(likeness.dtype))
    found: Tensor = torch.linalg.slogdet(torch.where(both, likeness, 0) + padding + ridge).logabsdet
    return found
