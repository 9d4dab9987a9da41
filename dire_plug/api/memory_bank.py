"""Keep embeddings of finished images, with which CD compares later images of their class."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from dire_plug.api.rows import index_runs, labels_on_host, unit_rows, upload
from dire_plug.errors import DirePlugError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from dire_plug.api.rows import Groups


class MemoryBank:
    """Embeddings of finished images in one network, with which CD compares later images of their class."""

    def __init__(self) -> None:
        self._held: tuple[Tensor, Tensor] | None = None
        self._kept: tuple[Groups, Tensor, Tensor] | None = None

    def __len__(self) -> int:
        """Return the number of images held."""
        return 0 if self._held is None else len(self._held[1])

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
        # cloned: the caller may write into its tensors afterwards
        embeddings, labels = embeddings.detach().clone(), labels.detach().clone()
        if self._held is not None:
            held, held_labels = self._held
            if held.shape[1] != embeddings.shape[1]:
                raise DirePlugError(
                    f"bank: it holds embeddings of width {held.shape[1]}, not {embeddings.shape[1]}; "
                    "keep one bank for each network"
                )
            embeddings = torch.cat([held.to(embeddings), embeddings])
            labels = torch.cat([held_labels.to(labels), labels])
        self._held, self._kept = (embeddings, labels), None

    def tensors(self) -> dict[str, Tensor]:
        """Return what `restore` needs: `embeddings` [B, D] and `labels` [B]; empty where nothing is held."""
        return {} if self._held is None else {"embeddings": self._held[0], "labels": self._held[1]}

    @classmethod
    def restore(cls, tensors: Mapping[str, Tensor]) -> MemoryBank:
        """Return a bank that holds these `tensors` themselves, no copies."""
        bank = cls()
        if tensors:
            bank._held = tensors["embeddings"], tensors["labels"]
        return bank

    def directions(self, groups: Groups, *, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return the normalised rows of the classes of `groups`, [C, B, D] padded with zeros, and their numbers, [C].

        They are kept until `groups` is another object, or the bank grows.

        Args:
            groups: of the batch.
            like: [N, D], the batch's rows, whose dtype and device are used.

        Raises:
            DirePlugError: the bank holds embeddings of another width.
        """
        if self._kept is None or self._kept[0] is not groups:
            self._kept = (groups, *self._arrange(groups, like))
        return self._kept[1], self._kept[2]

    def _arrange(self, groups: Groups, like: Tensor) -> tuple[Tensor, Tensor]:
        if self._held is None:
            return like.new_zeros(len(groups.classes), 0, like.shape[1]), torch.zeros_like(groups.counts)
        embeddings, labels = self._held
        if embeddings.shape[1] != like.shape[1]:
            raise DirePlugError(
                f"bank: it holds embeddings of width {embeddings.shape[1]}, the batch's have "
                f"{like.shape[1]}; keep one bank for each network"
            )
        # sorted here and not in `add`: images come once a slot, lookups once a step, and the result is kept
        sorted_labels, order = labels_on_host(labels).to(groups.host_classes.dtype).sort(stable=True)
        first = torch.searchsorted(sorted_labels, groups.host_classes)
        number = torch.searchsorted(sorted_labels, groups.host_classes, right=True) - first
        starts, counts, order = (upload(one, like.device) for one in (first, number, order))
        index, present = index_runs(starts, counts, rows=len(order), width=int(number.max()))
        rows = unit_rows(embeddings.to(like))[order[index]]
        return rows.masked_fill_(~present.unsqueeze(2), 0), counts
