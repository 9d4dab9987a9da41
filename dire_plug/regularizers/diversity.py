"""The mathematics of DiRe: cosine diversity (CD), cosine and Euclidean distribution matching (CDM, EDM).

x̂, r̂ are the normalised embeddings of one class, n synthetic (x) and m real (r), s = Σx̂ᵢ, u = Σr̂ⱼ, d = ‖x − r‖:

            paper, sums (Equations 1–5)   released, means
    CD      ‖s‖²                          Σ_{i≠j} |x̂ᵢ·x̂ⱼ| / n²
    CDM     1 − s·u                       1 − (s·u − Σ_{i<min(n,m)} x̂ᵢ·r̂ᵢ) / nm
    EDM     Σ dᵢⱼ                         (Σ dᵢⱼ − Σ_{i<min(n,m)} dᵢᵢ) / nm

Equations 1 and 3 as printed count the diagonal of CD: a constant n, without gradient. `released` follows DiversityLoss
in SRe2L/CIFAR100/utils_regularized.py of the authors' release, which zeroes the diagonal of the rectangular
synthetic × real matrices as well: the i-th synthetic row of a class (in the order of the batch) and its i-th real row
(as stored) are no pair. CDM's absolute value never acts (1 − cos ≥ 0). Nor does CD's where embeddings are ≥ 0, and the
sum then is ‖s‖² − Σ‖x̂ᵢ‖²; only at the kink, two rows without a common dimension, does this have the derivative from the
non-negative side where |·| has torch's 0. Weights don't carry over between the variants: sums and means differ by n²
and nm.

A row of zeros has cosine 0 with everything, with zero gradient; a pair at distance 0 adds nothing to a gradient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from dire_plug.errors import DirePlugError, nearest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from dire_plug.types import RealEmbeddings

VARIANTS = ("released", "paper")
REDUCTIONS = ("sum", "mean")
COMPONENTS = ("cd", "cdm", "edm")
MULTIPLIERS = {"released": 0.1, "paper": 1.0}
"""What the whole term is multiplied by unless the caller says otherwise; Algorithm 1 has no multiplier."""

_ROWS = 1 << 16
"""Real rows normalised at a time: bounds the memory of `prepare_real`."""


def diversity_loss(
    embeddings: Tensor,
    labels: Tensor,
    real: RealEmbeddings | PreparedReal,
    *,
    variant: Literal["released", "paper"] = "released",
    r_c: float = 1.0,
    r_e: float = 0.01,
    multiplier: float | None = None,
    reduction: Literal["sum", "mean"] = "sum",
    components: Sequence[str] = COMPONENTS,
    nonnegative: bool = False,
    bank: MemoryBank | None = None,
    bank_weight: float = 2.0,
) -> Tensor:
    """Return multiplier · Σ_c [r_c · (CD + CDM) + r_e · EDM] over the classes of `labels`, a scalar with its graph.

    With a bank of B finished images b of the class, CD also counts the pairs between the batch and the bank:

        CD = (Σ_{i≠j} |x̂ᵢ·x̂ⱼ| + w · Σ_{i,b} |x̂ᵢ·b̂|) / n(n + B)        released; paper's mean, its diagonal included
        CD = ‖s‖² + w · Σ_{i,b} x̂ᵢ·b̂                                      paper's sum

    A finished image no longer moves, so such a pair is seen from one side only and w = `bank_weight` = 2: then the
    gradient of every image, relative to those of CDM and EDM, is the one that it has in one batch of n + B images.

    Args:
        embeddings: [N, D]; computed with in the dtype of `real`. Differentiable once.
        labels: [N], int64, in any order.
        real: embeddings of real images; classes that `labels` lacks are ignored. Prepare them once for many calls.
        multiplier: of the whole term; None takes 0.1 (released) or 1 (paper).
        reduction: of the variant `paper`: sums as printed, or means over the n², nm and nm pairs.
        components: which of cd, cdm and edm are summed (Table 14).
        nonnegative: promises that no embedding has a negative value; saves the n×n matrix of CD.
        bank: finished images, whose embeddings take part in CD without gradient.

    Raises:
        DirePlugError: shapes don't fit, a class has no real embedding, or a name is unknown.
    """
    _check_names(variant, reduction, components)
    prepared = real if isinstance(real, PreparedReal) else prepare_real(real)
    _check_shapes(embeddings, labels, prepared)
    if not len(labels):
        return embeddings.sum()
    released = variant == "released"
    with torch.autocast(embeddings.device.type, enabled=False):
        rows = embeddings.to(prepared.values.dtype)
        block = prepared.block(labels, paired=released, distances="edm" in components)
        unit = unit_rows(rows)
        pairs = block.count * block.real_count if released or reduction == "mean" else torch.ones_like(block.count)
        loss = rows.new_zeros(())
        if "cd" in components:
            own = _own_cosines(unit, block, diagonal=not released, collapse=nonnegative or not released)
            cross, held = _bank_cosines(unit, block, bank, absolute=released)
            squares = block.count * (block.count + held) if released or reduction == "mean" else pairs
            loss = loss + r_c * ((own + bank_weight * cross) / squares).sum()
        if "cdm" in components:
            cosines = block.sum_rows((unit * block.targets).sum(1))
            loss = loss + r_c * (1 - cosines / pairs).sum()
        if "edm" in components:
            loss = loss + r_e * (_distances(rows, block) / pairs).sum()
    return loss * (MULTIPLIERS[variant] if multiplier is None else multiplier)


def unit_rows(rows: Tensor) -> Tensor:
    """Return the rows of [N, D] at length 1; a row of zeros stays as it is, with zero gradient."""
    squared = rows.square().sum(1, keepdim=True)
    positive = squared > 0
    return torch.where(positive, rows / torch.where(positive, squared, 1).sqrt(), 0)


def prepare_real(real: RealEmbeddings) -> PreparedReal:
    """Compute once what `diversity_loss` needs of the real embeddings.

    Raises:
        DirePlugError: shapes don't fit, there is no row, or the labels don't ascend.
    """
    return PreparedReal(real)


class PreparedReal:
    """Real embeddings of one network with the sums and means of each class, and the block of the last batch.

    Attributes:
        values: [M, D], as given.
        classes: [K], ascending; the classes that have embeddings.
        nonnegative: whether no value is negative.
    """

    def __init__(self, real: RealEmbeddings) -> None:
        _check_real(real)
        self.values = real.values.detach()
        self.classes, inverse, self._counts = torch.unique_consecutive(
            real.labels, return_inverse=True, return_counts=True
        )
        self._starts = self._counts.cumsum(0) - self._counts
        self._directions = self.values.new_zeros(len(self.classes), self.values.shape[1])
        self._means = torch.zeros_like(self._directions)
        for start in range(0, len(self.values), _ROWS):
            rows, owner = self.values[start : start + _ROWS], inverse[start : start + _ROWS]
            self._directions.index_add_(0, owner, unit_rows(rows))
            self._means.index_add_(0, owner, rows)
        self._means /= self._counts.unsqueeze(1)
        self.nonnegative = bool((self.values >= 0).all())
        self._block: ClassBlock | None = None
        self._block_key: tuple[Tensor, Tensor, int, bool, bool] | None = None

    def block(self, labels: Tensor, *, paired: bool, distances: bool) -> ClassBlock:
        """Return the arrangement of a batch with these labels; it is kept until the labels change.

        Args:
            labels: [N].
            paired: leave out the i-th synthetic row with the i-th real row of its class, as the release does.
            distances: also hold the centred real rows that EDM needs.

        Raises:
            DirePlugError: a class has no real embedding.
        """
        if self._block is None or not self._is_kept(labels, paired, distances):
            self._block = self._arrange(labels, paired=paired, distances=distances)
            self._block_key = (labels, labels.clone(), labels._version, paired, distances)
        return self._block

    def _is_kept(self, labels: Tensor, paired: bool, distances: bool) -> bool:
        if self._block_key is None:
            return False
        seen, copy, version, *flags = self._block_key
        if flags != [paired, distances]:
            return False
        return (labels is seen and labels._version == version) or torch.equal(labels, copy)

    def _arrange(self, labels: Tensor, *, paired: bool, distances: bool) -> ClassBlock:
        classes, owner, counts = torch.unique(labels, return_inverse=True, return_counts=True)
        found = torch.searchsorted(self.classes, classes).clamp_(max=len(self.classes) - 1)
        if bool((missing := self.classes[found] != classes).any()):
            raise DirePlugError(
                f"labels: no real embeddings of class {', '.join(map(str, classes[missing].tolist()))}; "
                "embed real images of every class that is synthesized"
            )
        rank = _rank_rows(owner, counts)
        starts, real_counts = self._starts[found], self._counts[found]
        targets = self._directions[found][owner]
        if paired:
            partner = self.values[(starts[owner] + rank).clamp_(max=len(self.values) - 1)]
            has_partner = (rank < real_counts[owner]).unsqueeze(1)
            targets = targets - torch.where(has_partner, unit_rows(partner), 0)
        width, means = int(counts.max()), self._means[found]
        real = excluded = None
        if distances:
            real, present = _centre_real(self.values, starts, real_counts, means)
            if len(owner) < len(classes) * width or not bool(present.all()):
                excluded = ~(_mask(counts, width).unsqueeze(2) & present.unsqueeze(1))
        dtype = self.values.dtype
        return ClassBlock(
            classes=classes,
            owner=owner,
            place=owner * width + rank,
            width=width,
            count=counts.to(dtype),
            real_count=real_counts.to(dtype),
            targets=targets,
            means=means,
            real=real,
            excluded=excluded,
            paired=paired,
        )


@dataclass(frozen=True, eq=False)
class ClassBlock:
    """How the N rows of a batch fall into C classes of at most n rows, beside at most m real rows each.

    Attributes:
        classes: [C], ascending.
        owner: [N], the index of the class of each row.
        place: [N], where in the padded [C·n, D] each row stands.
        width: n.
        count, real_count: [C], in the dtype of the embeddings.
        targets: [N, D], the sum of the real directions that CDM compares each row with.
        means: [C, D], means of the real rows.
        real: [C, m, D + 2], the real rows r less their class's mean, ‖r‖² and 1, padded with zeros; None without EDM.
        excluded: [C, n, m], True where a pair holds padding; None where nothing is padded, and without EDM.
        paired: whether the i-th synthetic and the i-th real row of a class are no pair.
    """

    classes: Tensor
    owner: Tensor
    place: Tensor
    width: int
    count: Tensor
    real_count: Tensor
    targets: Tensor
    means: Tensor
    real: Tensor | None
    excluded: Tensor | None
    paired: bool

    def pad(self, rows: Tensor) -> Tensor:
        """Arrange [N, D] as [C, n, D], padded with zeros."""
        flat = rows.new_zeros(len(self.classes) * self.width, rows.shape[1])
        return flat.index_copy(0, self.place, rows).view(len(self.classes), self.width, -1)

    def sum_rows(self, rows: Tensor) -> Tensor:
        """Sum [N, …] within classes to [C, …]."""
        return rows.new_zeros(len(self.classes), *rows.shape[1:]).index_add(0, self.owner, rows)


class MemoryBank:
    """Embeddings of finished images in one network, which CD compares later images of their class with."""

    def __init__(self) -> None:
        self._embeddings: Tensor | None = None
        self._labels: Tensor | None = None
        self._kept: tuple[ClassBlock, Tensor, Tensor] | None = None

    def __len__(self) -> int:
        """Return the number of images held."""
        return 0 if self._labels is None else len(self._labels)

    def add(self, embeddings: Tensor, labels: Tensor) -> None:
        """Take in finished images: embeddings [N, D], detached here, and their labels [N].

        Raises:
            DirePlugError: shapes don't fit each other, or what the bank holds.
        """
        if embeddings.ndim != 2 or labels.shape != embeddings.shape[:1]:
            raise DirePlugError(
                f"bank: embeddings {list(embeddings.shape)} and labels {list(labels.shape)} don't fit; "
                "[N, D] and [N] are needed"
            )
        embeddings, labels = embeddings.detach().clone(), labels.detach().clone()
        if self._embeddings is not None and self._labels is not None:
            if self._embeddings.shape[1] != embeddings.shape[1]:
                raise DirePlugError(
                    f"bank: it holds embeddings of width {self._embeddings.shape[1]}, not {embeddings.shape[1]}; "
                    "keep one bank for each network"
                )
            embeddings = torch.cat([self._embeddings.to(embeddings), embeddings])
            labels = torch.cat([self._labels.to(labels), labels])
        self._embeddings, self._labels, self._kept = embeddings, labels, None

    def tensors(self) -> dict[str, Tensor]:
        """Return what `restore` needs: `embeddings` [B, D] and `labels` [B]; empty where nothing is held."""
        if self._embeddings is None or self._labels is None:
            return {}
        return {"embeddings": self._embeddings, "labels": self._labels}

    @classmethod
    def restore(cls, tensors: Mapping[str, Tensor]) -> MemoryBank:
        """Return a bank that holds these `tensors` themselves, no copies."""
        bank = cls()
        bank._embeddings, bank._labels = tensors.get("embeddings"), tensors.get("labels")
        return bank

    def directions(self, block: ClassBlock) -> tuple[Tensor, Tensor]:
        """Return the normalised rows of the block's classes, [C, B, D] padded with zeros, and their numbers, [C]."""
        if self._kept is None or self._kept[0] is not block:
            like = block.targets
            if self._embeddings is None or self._labels is None:
                return like.new_zeros(len(block.classes), 0, like.shape[1]), torch.zeros_like(block.count)
            if self._embeddings.shape[1] != like.shape[1]:
                raise DirePlugError(
                    f"bank: it holds embeddings of width {self._embeddings.shape[1]}, the batch's have "
                    f"{like.shape[1]}; keep one bank for each network"
                )
            labels, order = self._labels.to(block.classes).sort(stable=True)
            starts = torch.searchsorted(labels, block.classes)
            counts = torch.searchsorted(labels, block.classes, right=True) - starts
            index, present = _index_classes(starts, counts, len(labels))
            rows = unit_rows(self._embeddings.to(like))[order[index]]
            self._kept = (block, rows.masked_fill_(~present.unsqueeze(2), 0), counts.to(like.dtype))
        return self._kept[1], self._kept[2]


class _DistanceSums(torch.autograd.Function):
    """Σ over the pairs of each class of ‖x − r‖; keeps only its own gradient, [C, n, D], made in the forward pass.

    On rows less the real mean of the class, D² = [−2x, 1, ‖x‖²]·[r, ‖r‖², 1] is one product, and with W = 1/D (0 where
    a pair doesn't count) so is W[r, ‖r‖², 1], which holds the gradient X∘W1 − WR and the value ΣWD². This D² loses its
    digits where x and r nearly coincide, as they do when synthesis starts from real images: the nearest real row of
    each x is therefore taken by the difference itself; further ones within rounding count as coinciding.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, real: Tensor, excluded: Tensor | None, paired: bool) -> Tensor:
        """Take [C, n, D], [C, m, D + 2] and [C, n, m] or None; return [C]."""
        norms = rows.square().sum(2, keepdim=True)
        squared = torch.bmm(torch.cat([-2 * rows, torch.ones_like(norms), norms], 2), real.transpose(1, 2))
        if excluded is not None:
            squared.masked_fill_(excluded, torch.inf)
        if paired:
            squared.diagonal(dim1=1, dim2=2).fill_(torch.inf)
        least, index = squared.min(2, keepdim=True)
        difference = rows - real[..., :-2].gather(1, index.expand(-1, -1, rows.shape[2]))
        near = torch.where(least < torch.inf, difference.square().sum(2, keepdim=True).sqrt(), 0)
        squared.scatter_(2, index, torch.inf)
        squared.masked_fill_(squared <= 16 * torch.finfo(rows.dtype).eps * norms, torch.inf)
        weighted = torch.bmm(squared.rsqrt_(), real)
        pulled, squares, total = weighted[..., :-2], weighted[..., -2:-1], weighted[..., -1:]
        gradient: Tensor = rows * total - pulled
        sums: Tensor = ((rows * (gradient - pulled)).sum(2, keepdim=True) + squares + near).sum((1, 2))
        if ctx.needs_input_grad[0]:
            gradient += torch.where(near > 0, difference / torch.where(near > 0, near, 1), 0)
            ctx.save_for_backward(rows, gradient)
        return sums

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None, None, None]:
        """Scale the kept gradient."""
        rows, gradient = ctx.saved_tensors
        kept = _Once.apply(rows, gradient) if torch.is_grad_enabled() else gradient
        return kept * outer[:, None, None], None, None, None


class _Once(torch.autograd.Function):
    """The kept gradient of EDM as a function of the rows, where a graph of it is asked for: it has no derivative."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, gradient: Tensor) -> Tensor:
        """Return the gradient."""
        return gradient.clone()

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor, None]:
        """Refuse, rather than leave a part of the second derivative out."""
        raise DirePlugError("edm: a second derivative was asked for; it has the first only, so leave edm out there")


def _own_cosines(unit: Tensor, block: ClassBlock, *, diagonal: bool, collapse: bool) -> Tensor:
    """Sum the (absolute) cosines between the rows of each class, [C]; by ‖s‖² where no absolute value can act."""
    if collapse:
        sums = block.sum_rows(unit).square().sum(1)
        return sums if diagonal else sums - block.sum_rows(unit.square().sum(1))
    padded = block.pad(unit)
    cosines = torch.bmm(padded, padded.transpose(1, 2)).abs()
    return cosines.sum((1, 2)) - cosines.diagonal(dim1=1, dim2=2).sum(1)


def _bank_cosines(unit: Tensor, block: ClassBlock, bank: MemoryBank | None, *, absolute: bool) -> tuple[Tensor, Tensor]:
    """Sum the cosines between the rows of each class and the bank's, [C]; return also how many the bank holds, [C]."""
    if bank is None or not len(bank):
        return torch.zeros_like(block.count), torch.zeros_like(block.count)
    held, counts = bank.directions(block)
    cosines = torch.bmm(block.pad(unit), held.transpose(1, 2))
    return (cosines.abs() if absolute else cosines).sum((1, 2)), counts


def _distances(rows: Tensor, block: ClassBlock) -> Tensor:
    centred = block.pad(rows) - block.means.unsqueeze(1)
    sums: Tensor = _DistanceSums.apply(centred, block.real, block.excluded, block.paired)
    return sums


def _index_classes(starts: Tensor, counts: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Return [C, m], which of all rows are start … start + count of each class, and [C, m], False in the padding."""
    width = int(counts.max())
    index = starts.unsqueeze(1) + torch.arange(width, device=starts.device)
    return index.clamp_(max=rows - 1), _mask(counts, width)


def _centre_real(values: Tensor, starts: Tensor, counts: Tensor, means: Tensor) -> tuple[Tensor, Tensor]:
    """Return [C, m, D + 2], the rows r of each class less its mean, ‖r‖² and 1, padded with zeros; and their mask."""
    index, present = _index_classes(starts, counts, len(values))
    real = values.new_empty(*index.shape, values.shape[1] + 2)
    rows = real[..., :-2]
    torch.sub(values[index], means.unsqueeze(1), out=rows)
    torch.linalg.vector_norm(rows, dim=2, out=real[..., -2]).square_()
    real[..., -1] = 1
    return real.masked_fill_(~present.unsqueeze(2), 0), present


def _mask(counts: Tensor, width: int) -> Tensor:
    return torch.arange(width, device=counts.device) < counts.unsqueeze(1)


def _rank_rows(owner: Tensor, counts: Tensor) -> Tensor:
    """Return, [N], how many earlier rows of the batch are of the same class."""
    order = owner.argsort(stable=True)
    first = (counts.cumsum(0) - counts)[owner[order]]
    return torch.empty_like(order).index_copy_(0, order, torch.arange(len(order), device=owner.device) - first)


def _check_names(variant: str, reduction: str, components: Sequence[str]) -> None:
    given = (("variant", variant, VARIANTS), ("reduction", reduction, REDUCTIONS))
    for field, name, names in (*given, *(("components", name, COMPONENTS) for name in components)):
        if name not in names:
            raise DirePlugError(f"{field}: '{name}' is none of {', '.join(names)}{nearest(name, names)}")
    if not components:
        raise DirePlugError("components: none is named; name at least one of cd, cdm, edm")


def _check_shapes(embeddings: Tensor, labels: Tensor, real: PreparedReal) -> None:
    if embeddings.ndim != 2 or labels.shape != embeddings.shape[:1]:
        raise DirePlugError(
            f"embeddings {list(embeddings.shape)} and labels {list(labels.shape)} don't fit; [N, D] and [N] are needed"
        )
    if embeddings.shape[1] != real.values.shape[1]:
        raise DirePlugError(
            f"embeddings have {embeddings.shape[1]} values, the real ones {real.values.shape[1]}; "
            "both must be of one network"
        )
    if embeddings.device != real.values.device:
        raise DirePlugError(
            f"embeddings are on {embeddings.device}, the real ones on {real.values.device}; move the real ones there"
        )


def _check_real(real: RealEmbeddings) -> None:
    values, labels = real.values, real.labels
    if values.ndim != 2 or labels.shape != values.shape[:1] or not len(values):
        raise DirePlugError(
            f"real embeddings {list(values.shape)} and labels {list(labels.shape)} don't fit; "
            "[M, D] and [M] are needed, M ≥ 1"
        )
    if not values.is_floating_point():
        raise DirePlugError(f"real embeddings are {values.dtype}; floating point is needed")
    if bool((labels[1:] < labels[:-1]).any()):
        raise DirePlugError("real embeddings: the labels don't ascend; sort the rows by class, stably")
