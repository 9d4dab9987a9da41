"""The plugin `dpp`: the volume that the synthetic embeddings of a class span, by a determinantal point process.

    −Σ_c log det(K_c + ε·I) / n,     K_ij = cos(eᵢ, eⱼ), or exp(−‖eᵢ − eⱼ‖² / 2s²)

A determinantal point process gives a set the probability det K (Kulesza & Taskar, 2012); the paper names it as future
work for diversity (reference [3], Celis et al., 2018). s is the mean distance of the class's real rows to their mean;
ε keeps equal rows finite. It only spreads: add EDM, which holds images near the real ones (`--regularizer dpp
--regularizer dire`, components [edm]). Vendi is a function of the same matrix, so Vendi in T says little of it.
"""

from typing import Literal

import torch
from torch import Tensor

from dire_plug.api.term import ClassRows, ClassTerm, Positive, Settings, cosine_kernel, rbf_kernel


class DPPSettings(Settings):
    """The settings of the term in a recipe."""

    kernel: Literal["cosine", "rbf"] = "rbf"
    epsilon: Positive = 1e-3
    """Added to the kernel's diagonal."""


class DPP(ClassTerm[DPPSettings]):
    """Adds the negative log-determinant of each class in the embeddings of the network in the loop."""

    settings_model = DPPSettings

    def value(self, rows: ClassRows) -> Tensor:
        """Return the sum over classes; without gradient at one image per class."""
        if self.settings.kernel == "cosine":
            likeness = cosine_kernel(rows.made_whole, rows.made_whole)
        else:
            likeness = rbf_kernel(rows.made, rows.made, width=rows.spreads)
        both = rows.here.unsqueeze(2) & rows.here.unsqueeze(1)
        padding = torch.diag_embed((~rows.here).to(likeness.dtype))  # its determinant is 1
        ridge = self.settings.epsilon * torch.diag_embed(rows.here.to(likeness.dtype))
        volumes: Tensor = torch.linalg.slogdet(torch.where(both, likeness, 0) + padding + ridge).logabsdet
        return -(volumes / rows.counts).sum()
