"""The plugin `energy`: the energy distance between synthetic and real embeddings of each class, and a share of CD.

    Σ_c [2 · mean_{i,j} ‖eᵢ − xⱼ‖ − mean_{i≠j} ‖eᵢ − eⱼ‖] / mean_{j≠k} ‖xⱼ − xₖ‖  +  cd · Σ_{i≠j} cos(eᵢ, eⱼ) / n²

e are the n synthetic, x the real embeddings of class c. Attraction to the real ones and repulsion between the
synthetic ones are one statistic, which is least where both have the same distribution (Székely & Rizzo, 2013, "Energy
statistics", less the term without a gradient, and without the diagonal). The unit makes it independent of the network's
scale. It optimises a distance between distributions, so Vendi may be quoted for it as for DiRe; with `cd` > 0
similarity is optimised directly, as it is by DiRe.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import BaseModel, ConfigDict, Field

from dire_plug.hookspecs import hookimpl

if TYPE_CHECKING:
    from torch import Tensor

    from dire_plug.regularizers.class_rows import ClassRows
    from dire_plug.types import Batch, Synthesis


class EnergySettings(BaseModel):
    """What a recipe may say of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cd: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.5
    """The weight of CD."""


class Energy:
    """Adds the energy distance of each class in the embeddings of the network in the loop."""

    settings_model = EnergySettings

    def __init__(self, settings: EnergySettings) -> None:
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
        term = energy_distance(rows, unit=real.pair_distances[rows.places])
        return term + self.settings.cd * cosine_diversity(rows) if self.settings.cd else term


def energy_distance(rows: ClassRows, *, unit: Tensor) -> Tensor:
    """Return the sum over classes of the energy distance, without the real rows' own part, in units of `unit`, [C]."""
    import torch

    from dire_plug.regularizers.class_rows import distances, off_diagonal

    between = distances(rows.made, rows.real) * (rows.here.unsqueeze(2) & rows.real_here.unsqueeze(1))
    within = distances(rows.made, rows.made) * off_diagonal(rows.here)
    counts = rows.counts
    attraction = 2 * between.sum((1, 2)) / (counts * rows.real_counts)
    repulsion = within.sum((1, 2)) / (counts * (counts - 1)).clamp_min(1)
    return ((attraction - repulsion) / torch.where(unit > 0, unit, 1)).sum()


def cosine_diversity(rows: ClassRows, *, centred: bool = False) -> Tensor:
    """Return Σ_c Σ_{i≠j} cos(eᵢ, eⱼ) / n²; with the mean of the class's real rows taken off where `centred`."""
    from dire_plug.regularizers.rows import unit_rows

    made = rows.made if centred else rows.made_whole
    unit = unit_rows(made.flatten(0, 1)).view_as(made)
    cosines = unit.sum(1).square().sum(1) - unit.square().sum((1, 2))
    return (cosines / rows.counts.square()).sum()
