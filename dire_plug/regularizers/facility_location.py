"""The plugin `facility-location`: each real embedding is served by the synthetic one most like it.

    Σ_c [1 − mean_j max_i k(eᵢ, xⱼ)],     k(e, x) = cos(e, x), or exp(−‖e − x‖² / 2s²)

The facility-location function mean_j max_i k is submodular in the set of the eᵢ (Wei, Iyer & Bilmes, 2015; the paper
names submodular functions as future work, reference [1]). s is the mean distance of the class's real rows to their
mean. The maximum passes its gradient to one image for each real row. It is close to what coverage counts, so coverage
in T says little of it.
"""

from typing import Literal

import torch
from torch import Tensor

from dire_plug.api.term import ClassRows, ClassTerm, Settings, cosine_kernel, rbf_kernel


class FacilityLocationSettings(Settings):
    """The settings of the term in a recipe."""

    kernel: Literal["cosine", "rbf"] = "cosine"


class FacilityLocation(ClassTerm[FacilityLocationSettings]):
    """Adds the facility-location term of each class in the embeddings of the network in the loop."""

    settings_model = FacilityLocationSettings

    def value(self, rows: ClassRows) -> Tensor:
        """Return the sum over classes."""
        if self.settings.kernel == "cosine":
            likeness = cosine_kernel(rows.made_whole, rows.real_whole)
        else:
            likeness = rbf_kernel(rows.made, rows.real, width=rows.spreads)
        # padding must never be the best match, not even where all cosines are negative
        best = likeness.masked_fill(~rows.here.unsqueeze(2), -torch.inf).amax(1)
        return (1 - rows.mean_over_real(best)).sum()
