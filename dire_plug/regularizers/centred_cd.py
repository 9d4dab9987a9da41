"""The plugin `centred-cd`: cosine diversity around the mean of the class's real embeddings.

    Σ_c Σ_{i≠j} cos(eᵢ − μ_c, eⱼ − μ_c) / n²,     μ_c the mean of the real embeddings of class c

CD (Equation 3 of the paper) looks from the origin, from which all embeddings of a class lie in one direction once they
are non-negative. From the class's mean, directions differ as the images do. Cosines are signed here: two rows on
opposite sides of the mean lower the term. It says nothing of how far from the mean rows are; with EDM beside it
(`--regularizer centred-cd --regularizer dire`, components [edm]) they stay near the real ones. Similarity and Vendi
are close to what it optimises.
"""

from torch import Tensor

from dire_plug.api.term import ClassRows, ClassTerm, Settings, cosine_diversity


class CentredCD(ClassTerm[Settings]):
    """Adds the centred cosine diversity of each class in the embeddings of the network in the loop; no settings."""

    def value(self, rows: ClassRows) -> Tensor:
        """Return the sum over classes: 0 at one image per class."""
        return cosine_diversity(rows, centred=True)
