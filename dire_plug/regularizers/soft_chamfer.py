"""The plugin `soft-chamfer`: every real embedding is to have a synthetic one near it.

    Σ_c mean_j [−τ · logsumexp_i(−‖eᵢ − xⱼ‖ / (s τ))],     s the mean distance of the class's real rows to their mean

The one-sided Chamfer distance from the real embeddings x to the synthetic ones e (Barrow et al., 1977, "Parametric
correspondence and chamfer matching"), with a soft minimum, so that more than the nearest image moves; the smaller τ,
the harder. It nearly optimises coverage itself, so coverage in T says nothing of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field

from dire_plug.hookspecs import hookimpl

if TYPE_CHECKING:
    from torch import Tensor

    from dire_plug.regularizers.class_rows import ClassRows
    from dire_plug.types import Batch, Synthesis


class SoftChamferSettings(BaseModel):
    """What a recipe may say of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tau: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.1
    """The temperature of the soft minimum, in units of s."""


class SoftChamfer:
    """Adds the soft Chamfer distance of each class in the embeddings of the network in the loop."""

    settings_model = SoftChamferSettings

    def __init__(self, settings: SoftChamferSettings) -> None:
        from dire_plug.regularizers.real import PreparedReals

        self.settings, self._prepared = settings, PreparedReals()

    @hookimpl
    def loss_term(self, synthesis: Synthesis, batch: Batch) -> Tensor:
        """Return the term of this step, a scalar.

        Raises:
            DirePlugError: a class in use has no real embedding, or the widths differ.
        """
        from dire_plug.regularizers.class_rows import arrange

        real = self._prepared.of(synthesis, batch.teacher)
        rows = arrange(batch.embeddings, batch.labels, real)
        return soft_chamfer(rows, unit=real.spreads[rows.places], tau=self.settings.tau)


def soft_chamfer(rows: ClassRows, *, unit: Tensor, tau: float) -> Tensor:
    """Return the sum over classes of the soft Chamfer distance in units of `unit`, [C]."""
    import torch

    from dire_plug.regularizers.class_rows import distances

    scale = torch.where(unit > 0, unit, 1)[:, None, None] * tau
    near = (-distances(rows.made, rows.real) / scale).masked_fill(~rows.here.unsqueeze(2), -torch.inf)
    least = -tau * torch.logsumexp(near, dim=1)
    return ((least * rows.real_here).sum(1) / rows.real_counts).sum()
