"""The plugin `energy`: the energy distance between synthetic and real embeddings of each class, and a share of CD.

    Σ_c [2 · mean_{i,j} ‖eᵢ − xⱼ‖ − mean_{i≠j} ‖eᵢ − eⱼ‖] / mean_{j≠k} ‖xⱼ − xₖ‖  +  cd · Σ_{i≠j} cos(eᵢ, eⱼ) / n²

e are the n synthetic, x the real embeddings of class c. Attraction to the real ones and repulsion between the
synthetic ones are one statistic, which is least where both have the same distribution (Székely & Rizzo, 2013, "Energy
statistics", less the term without a gradient, and without the diagonal). The unit makes it independent of the network's
scale. It optimises a distance between distributions, so Vendi may be quoted for it as for DiRe; with `cd` > 0
similarity is optimised directly, as it is by DiRe.
"""

from torch import Tensor

from dire_plug.api.term import ClassRows, ClassTerm, Settings, Weight, cosine_diversity, distances


class EnergySettings(Settings):
    """The settings of the term in a recipe."""

    cd: Weight = 0.5
    """The weight of CD."""


class Energy(ClassTerm[EnergySettings]):
    """Adds the energy distance of each class in the embeddings of the network in the loop."""

    settings_model = EnergySettings

    def value(self, rows: ClassRows) -> Tensor:
        """Return the sum over classes, without the real rows' own part of the energy distance."""
        between = distances(rows.made, rows.real) * rows.real_pairs
        within = distances(rows.made, rows.made) * rows.pairs
        attraction = 2 * between.sum((1, 2)) / (rows.counts * rows.real_counts)
        repulsion = within.sum((1, 2)) / (rows.counts * (rows.counts - 1)).clamp_min(1)
        term = ((attraction - repulsion) / rows.real_distances).sum()
        return term + self.settings.cd * cosine_diversity(rows) if self.settings.cd else term
