"""The plugin `centred-cd`: cosine diversity around the mean of the class's real embeddings.

    Σ_c Σ_{i≠j} cos(eᵢ − μ_c, eⱼ − μ_c) / n²,     μ_c the mean of the real embeddings of class c

CD (Equation 3 of the paper) looks from the origin, from which all embeddings of a class lie in one direction once they
are non-negative. From the class's mean, directions differ as the images do. Cosines are signed here: two rows on
opposite sides of the mean lower the term. It says nothing of how far from the mean rows are; with EDM beside it
(`--regularizer centred-cd --regularizer dire`, components [edm]) they stay near the real ones. Similarity and Vendi
are close to what it optimises.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from dire_plug.hookspecs import hookimpl

if TYPE_CHECKING:
    from torch import Tensor

    from dire_plug.types import Batch, Synthesis


class CentredCDSettings(BaseModel):
    """It has no settings of its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class CentredCD:
    """Adds the centred cosine diversity of each class in the embeddings of the network in the loop."""

    settings_model = CentredCDSettings

    def __init__(self, settings: CentredCDSettings) -> None:
        from dire_plug.regularizers.real import PreparedReals

        self._prepared = PreparedReals()

    @hookimpl
    def loss_term(self, synthesis: Synthesis, batch: Batch) -> Tensor:
        """Return the term of this step, a scalar: 0 at one image per class.

        Raises:
            DirePlugError: a class in use has no real embedding, or the widths differ.
        """
        from dire_plug.regularizers.class_rows import arrange
        from dire_plug.regularizers.energy import cosine_diversity

        rows = arrange(batch.embeddings, batch.labels, self._prepared.of(synthesis, batch.teacher))
        return cosine_diversity(rows, centred=True)
