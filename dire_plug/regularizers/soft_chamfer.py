"""The plugin `soft-chamfer`: every real embedding is to have a synthetic one near it.

    Σ_c mean_j [−τ · logsumexp_i(−‖eᵢ − xⱼ‖ / (s τ))],     s the mean distance of the class's real rows to their mean

The one-sided Chamfer distance from the real embeddings x to the synthetic ones e (Barrow et al., 1977, "Parametric
correspondence and chamfer matching"), with a soft minimum, so that more than the nearest image moves; the smaller τ,
the harder. It nearly optimises coverage itself, so coverage in T says nothing of it.
"""

import torch
from torch import Tensor

from dire_plug.api.term import ClassRows, ClassTerm, Positive, Settings, distances


class SoftChamferSettings(Settings):
    """The settings of the term in a recipe."""

    tau: Positive = 0.1
    """The temperature of the soft minimum, in units of s."""


class SoftChamfer(ClassTerm[SoftChamferSettings]):
    """Adds the soft Chamfer distance of each class in the embeddings of the network in the loop."""

    settings_model = SoftChamferSettings

    def value(self, rows: ClassRows) -> Tensor:
        """Return the sum over classes."""
        tau = self.settings.tau
        scale = rows.spreads[:, None, None] * tau
        near = (-distances(rows.made, rows.real) / scale).masked_fill(~rows.here.unsqueeze(2), -torch.inf)
        return rows.mean_over_real(-tau * torch.logsumexp(near, dim=1)).sum()
