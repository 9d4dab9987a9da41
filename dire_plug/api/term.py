"""Write a regularizer with a base that does the plumbing, and the rows of each class that its formula works on.

A term of its own needs a settings class and one method:

    class MyTerm(ClassTerm[MySettings]):
        settings_model = MySettings

        def value(self, rows: ClassRows) -> Tensor: ...

`Term` is the base of a term that isn't written class by class: it answers the hook `loss_term` itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Annotated, ClassVar, Generic, TypeVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from dire_plug.api.data_file import data
from dire_plug.api.memory_bank import MemoryBank
from dire_plug.api.real_embeddings import PreparedReal, prepare_real
from dire_plug.api.rows import COINCIDING, squared_distances, unit_rows
from dire_plug.errors import DirePlugError
from dire_plug.hookspecs import hookimpl
from dire_plug.types import Batch, Coreset, RealEmbeddings, Slot, Synthesis

__all__ = [
    "Batch",
    "ClassRows",
    "ClassTerm",
    "Coreset",
    "DirePlugError",
    "MemoryBank",
    "Positive",
    "PreparedReal",
    "RealEmbeddings",
    "Settings",
    "Slot",
    "Synthesis",
    "Term",
    "Weight",
    "arrange",
    "cosine_diversity",
    "cosine_kernel",
    "data",
    "distances",
    "hookimpl",
    "prepare_real",
    "rbf_kernel",
    "squared_distances",
    "unit_rows",
]

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Settings(BaseModel):
    """The base of a term's settings in a recipe; the key `weight` is the tool's own."""

    model_config = ConfigDict(extra="forbid", frozen=True)


SettingsT = TypeVar("SettingsT", bound=BaseModel)


class Term(Generic[SettingsT]):
    """The base of a term: its settings, the real embeddings of each network, and a bank of finished images.

    A subclass answers `loss_term`, marked with `hookimpl`.
    """

    settings_model: ClassVar[type[BaseModel]] = Settings

    def __init__(self, settings: SettingsT) -> None:
        """Take the settings, an instance of `settings_model`."""
        self.settings = settings
        self._real: dict[str, tuple[RealEmbeddings, PreparedReal]] = {}
        self._banks: dict[str, MemoryBank] = {}
        self._last: dict[str, tuple[Slot, Tensor, Tensor]] = {}

    def real(self, synthesis: Synthesis, batch: Batch) -> PreparedReal:
        """Return the prepared real rows of the batch's network; prepare them again where the synthesis has new ones."""
        # compared by identity: DM's loop network makes new real embeddings in each step
        given = synthesis.real(batch.teacher)
        if batch.teacher not in self._real or self._real[batch.teacher][0] is not given:
            self._real[batch.teacher] = (given, prepare_real(given))
        return self._real[batch.teacher][1]

    def bank(self, synthesis: Synthesis, batch: Batch) -> MemoryBank | None:
        """Return the finished images in the batch's network; None where the recipe turns the bank off.

        The embeddings of this batch go into it when the slot is done, unless a later step's come.
        """
        if not synthesis.bank:
            return None
        # only the last step of a slot counts: earlier embeddings are of unfinished images
        self._last[batch.teacher] = (batch.slot, batch.embeddings.detach(), batch.labels)
        return self._restore(synthesis, batch.teacher)

    @hookimpl
    def slot_done(self, synthesis: Synthesis, slot: Slot) -> None:
        """Put the embeddings of the slot's last step in each network into that network's bank."""
        # emptied first: a term that raises must not leave a slot behind for the next pass
        last, self._last = self._last, {}
        for teacher, (seen, embeddings, labels) in last.items():
            if seen == slot:
                bank = self._restore(synthesis, teacher)
                bank.add(embeddings, labels)
                kept = {f"{teacher}.{name}": tensor for name, tensor in bank.tensors().items()}
                synthesis.state(self).update(kept)

    def _restore(self, synthesis: Synthesis, teacher: str) -> MemoryBank:
        """Return the bank of a network: what the synthesis keeps decides, so that a resumed one goes on from it."""
        state = synthesis.state(self)
        kept = {name: state[f"{teacher}.{name}"] for name in ("embeddings", "labels") if f"{teacher}.{name}" in state}
        bank = self._banks.get(teacher)
        # by identity again: a resumed synthesis replaces the tensors, and the bank must follow
        if bank is None or bank.tensors().get("embeddings") is not kept.get("embeddings"):
            bank = self._banks[teacher] = MemoryBank.restore(kept)
        return bank


class ClassTerm(Term[SettingsT], ABC):
    """The base of a term that compares the synthetic rows of each class with each other, or with the real ones."""

    @abstractmethod
    def value(self, rows: ClassRows) -> Tensor:
        """Return the term of the classes of a step, a scalar, differentiable in `rows.made`."""

    @hookimpl
    def loss_term(self, synthesis: Synthesis, batch: Batch) -> Tensor:
        """Return the term of this step.

        Raises:
            DirePlugError: a class in use has no real embedding, or the widths differ.
        """
        return self.value(arrange(batch.embeddings, batch.labels, self.real(synthesis, batch)))


@dataclass(frozen=True, eq=False)
class ClassRows:
    """The C classes of a batch, at most n synthetic and m real rows each, less the mean of the class's real rows.

    Attributes:
        made: [C, n, D], synthetic rows with their graph; zeros in the padding.
        here: [C, n], False in the padding.
        real: [C, m, D]; zeros in the padding.
        real_here: [C, m], False in the padding.
        means: [C, 1, D], what was taken off.
        prepared: all real rows.
        places: [C], where in the per-class values of `prepared` these classes stand.
    """

    made: Tensor
    here: Tensor
    real: Tensor
    real_here: Tensor
    means: Tensor
    prepared: PreparedReal
    places: Tensor

    @property
    def made_whole(self) -> Tensor:
        """The synthetic rows as the network gives them, [C, n, D]; zeros in the padding."""
        return self.made + self.means * self.here.unsqueeze(2)

    @property
    def real_whole(self) -> Tensor:
        """The real rows likewise, [C, m, D]."""
        return self.real + self.means * self.real_here.unsqueeze(2)

    @property
    def counts(self) -> Tensor:
        """The number of synthetic rows of each class, [C]."""
        return self.here.sum(1)

    @property
    def real_counts(self) -> Tensor:
        """The number of real rows of each class, [C]."""
        return self.real_here.sum(1)

    @property
    def pairs(self) -> Tensor:
        """Whether a place holds two different synthetic rows, [C, n, n]."""
        both = self.here.unsqueeze(2) & self.here.unsqueeze(1)
        return both & ~torch.eye(self.here.shape[1], dtype=torch.bool, device=self.here.device)

    @property
    def real_pairs(self) -> Tensor:
        """Whether a place holds a synthetic and a real row, [C, n, m]."""
        return self.here.unsqueeze(2) & self.real_here.unsqueeze(1)

    @property
    def spreads(self) -> Tensor:
        """The mean distance of the real rows of each class to their mean, [C]; 1 where that is 0."""
        return _unit(self.prepared.spreads[self.places])

    @property
    def real_distances(self) -> Tensor:
        """The mean distance between two different real rows of each class, [C]; 1 where that is 0."""
        return _unit(self.prepared.pair_distances[self.places])

    def mean_over_real(self, values: Tensor) -> Tensor:
        """Return the mean of [C, m] over the real rows of each class, [C]."""
        return (values * self.real_here).sum(1) / self.real_counts


def arrange(embeddings: Tensor, labels: Tensor, real: PreparedReal) -> ClassRows:
    """Arrange embeddings [N, D] with labels [N] by class beside the real rows; differentiable in `embeddings`.

    Raises:
        DirePlugError: a class has no real embedding, or the widths differ.
    """
    if embeddings.shape[1] != real.values.shape[1]:
        raise DirePlugError(
            f"embeddings have {embeddings.shape[1]} values, the real ones {real.values.shape[1]}; "
            "take those of one network"
        )
    block = real.block(labels, paired=False, distances=True)
    assert block.real is not None
    groups, means = block.groups, block.means.unsqueeze(1)
    here = groups.here
    # centred on the real mean: distances and kernels are computed from small differences, and keep their digits
    made = (groups.pad(embeddings.to(real.values.dtype)) - means) * here.unsqueeze(2)
    return ClassRows(made, here, block.real[..., :-2], block.real[..., -1] > 0, means, real, block.places)


def distances(first: Tensor, second: Tensor) -> Tensor:
    """Return, [C, n, m], the distances between [C, n, D] and [C, m, D]; a pair that coincides has no gradient."""
    # the root's gradient is infinite at 0, so coinciding pairs are masked before and after it
    squared = squared_distances(first, second)
    apart = squared > COINCIDING * torch.finfo(first.dtype).eps * first.detach().square().sum(2, keepdim=True)
    return torch.where(apart, squared.where(apart, 1).sqrt(), 0)


def cosine_kernel(first: Tensor, second: Tensor) -> Tensor:
    """Return, [C, n, m], the cosines between [C, n, D] and [C, m, D]; 0 with a row of zeros."""
    return torch.bmm(_directions(first), _directions(second).transpose(1, 2))


def rbf_kernel(first: Tensor, second: Tensor, *, width: Tensor) -> Tensor:
    """Return, [C, n, m], exp(−‖e − x‖² / 2w²) with the width w > 0 of each class, [C]."""
    return (-squared_distances(first, second) / (2 * width.square())[:, None, None]).exp()


def cosine_diversity(rows: ClassRows, *, centred: bool = False) -> Tensor:
    """Return Σ_c Σ_{i≠j} cos(eᵢ, eⱼ) / n²; with the mean of the class's real rows taken off where `centred`."""
    unit = _directions(rows.made if centred else rows.made_whole)
    cosines = unit.sum(1).square().sum(1) - unit.square().sum((1, 2))
    return (cosines / rows.counts.square()).sum()


def _directions(rows: Tensor) -> Tensor:
    """Return the rows of [C, n, D] at length 1; a row of zeros stays as it is."""
    return unit_rows(rows.flatten(0, 1)).view_as(rows)


def _unit(lengths: Tensor) -> Tensor:
    return torch.where(lengths > 0, lengths, 1)
