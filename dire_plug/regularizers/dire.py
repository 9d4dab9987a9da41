"""The plugin DiRe: adds the diversity regularizer to a synthesis loss. `diversity` has its mathematics."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator
from torch import Tensor

from dire_plug.api.term import Batch, Settings, Synthesis, Term, Weight, hookimpl
from dire_plug.regularizers.diversity import compare_coreset, diversity_loss

EDM_ERROR, EDM_GRADIENT = "edm error", "edm gradient"
"""Names under which the first and the last step of a slot record what a coreset does to EDM: its relative error, and
the cosine between its gradient and the exact one."""


class DiReSettings(Settings):
    """The settings of DiRe in a recipe; the defaults are those of the authors' release."""

    variant: Literal["released", "paper"] = "released"
    """`released`: means, as the authors' code computes; `paper`: Equations 1–5 as printed."""
    r_c: Weight = 1.0
    """The weight of CD and CDM."""
    r_e: Weight = 0.01
    """The weight of EDM."""
    r_e_relative: bool = False
    """Whether r_e is in units of the mean norm of the real embeddings, so that it carries over between networks."""
    multiplier: Weight = 0.1
    """Multiplies the whole term; 1 in the variant `paper` unless given, since Algorithm 1 has none."""
    reduction: Literal["sum", "mean"] = "sum"
    """For the variant `paper` only: sums as printed, or means over pairs."""
    components: Annotated[tuple[Literal["cd", "cdm", "edm"], ...], Field(min_length=1)] = ("cd", "cdm", "edm")
    """The components to sum (Table 14)."""

    @model_validator(mode="before")
    @classmethod
    def leave_the_paper_unmultiplied(cls, given: Any) -> Any:
        """Set the multiplier to 1 where the variant is `paper` and none is given."""
        if isinstance(given, dict) and given.get("variant") == "paper":
            return {"multiplier": 1.0, **given}
        return given

    @field_validator("components")
    @classmethod
    def name_each_component_once(cls, components: tuple[str, ...]) -> tuple[str, ...]:
        """Raise for a component that is named twice."""
        if len(set(components)) < len(components):
            raise ValueError("a component is named twice; name each of cd, cdm, edm at most once")
        return components

    @model_validator(mode="after")
    def refuse_an_idle_reduction(self) -> DiReSettings:
        """Raise for a reduction that the variant would ignore."""
        if self.variant == "released" and self.reduction != "sum":
            raise ValueError("reduction belongs to variant 'paper'; 'released' always takes means")
        return self


class DiRe(Term[DiReSettings]):
    """Adds the diversity regularizer, class by class, in the embeddings of the network in the loop."""

    settings_model = DiReSettings

    @hookimpl
    def loss_term(self, synthesis: Synthesis, batch: Batch) -> Tensor:
        """Return the regularizer of this step's embeddings.

        Raises:
            DirePlugError: a class in use has no real embedding in the teacher, or the widths differ.
        """
        settings, real = self.settings, self.real(synthesis, batch)
        if real.coreset is not None and "edm" in settings.components and batch.step in (0, synthesis.steps - 1):
            paired = settings.variant == "released"
            error, cosine = compare_coreset(batch.embeddings, batch.labels, real, paired=paired)
            synthesis.record(EDM_ERROR, error)
            synthesis.record(EDM_GRADIENT, cosine)
        return diversity_loss(
            batch.embeddings,
            batch.labels,
            real,
            **dict(settings),  # a field is a parameter of the same name
            nonnegative=synthesis.nonnegative and real.nonnegative,
            bank=self.bank(synthesis, batch),
            record=partial(synthesis.record, component=True),
        )
