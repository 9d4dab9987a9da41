"""The authors' loss as a plugin, for `step_share.py`: a term instead of ours.

It is loaded by name, as any third-party regularizer is; `known_plugins` makes the name known to child processes.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diversity_loss import load
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from dire_plug.hookspecs import hookimpl
from dire_plug.types import Batch, Synthesis

AUTHORS = "benchmark-authors"
ENTRY_POINTS = f"[dire_plug.regularizers]\n{AUTHORS} = turn_plugins:Authors\n"


@contextlib.contextmanager
def known_plugins() -> Iterator[None]:
    """Make the plugins of the benchmark known to child processes while the block runs."""
    before = os.environ.get("PYTHONPATH")
    with tempfile.TemporaryDirectory() as site:
        folder = Path(site) / "dire_plug_benchmarks-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: dire-plug-benchmarks\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(ENTRY_POINTS)
        ours = [site, str(Path(__file__).resolve().parent)]
        os.environ["PYTHONPATH"] = os.pathsep.join([*ours, *([before] if before else [])])
        try:
            yield
        finally:
            if before is None:
                del os.environ["PYTHONPATH"]
            else:
                os.environ["PYTHONPATH"] = before


class AuthorsSettings(BaseModel):
    """Where the release lies."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    checkout: str
    detached: bool = False
    """Whether no gradient runs into the real embeddings; as shipped it does."""


class Authors:
    """Adds the `DiversityLoss` of the authors' release, with its published weights, class by class."""

    settings_model = AuthorsSettings

    def __init__(self, settings: AuthorsSettings) -> None:
        """Load the class from the release's own file."""
        self._class = load(Path(settings.checkout))
        self._detached = settings.detached
        self._losses: dict[tuple[int, int], Any] = {}
        self._real: dict[str, list[Tensor]] = {}

    @hookimpl
    def loss_term(self, synthesis: Synthesis, batch: Batch) -> Tensor:
        """Return the release's value: it wants the rows class by class, with equally many of each."""
        real = self._prepare(synthesis, batch.teacher)
        order = torch.argsort(batch.labels, stable=True)
        classes, counts = torch.unique_consecutive(batch.labels[order], return_counts=True)
        starts = counts.cumsum(0) - counts
        terms = []
        for n in counts.unique().tolist():
            alike = (counts == n).nonzero().flatten()
            rows = order[(starts[alike, None] + torch.arange(n)).flatten()]
            each = [real[one] for one in classes[alike].tolist()]
            terms.append(self._build(len(each), n)(batch.embeddings[rows], each))
        return torch.stack(terms).sum()

    def _prepare(self, synthesis: Synthesis, teacher: str) -> list[Tensor]:
        if teacher not in self._real:
            known = synthesis.real(teacher)
            each = [known.values[known.labels == one] for one in range(synthesis.classes)]
            self._real[teacher] = [one.requires_grad_(not self._detached) for one in each]
        return self._real[teacher]

    def _build(self, classes: int, n: int) -> Any:
        if (classes, n) not in self._losses:
            settings = SimpleNamespace(multiplier=0.1, start_class_id=0, IPC=n, device="cpu", r_cos=1.0, r_euc=0.01)
            self._losses[classes, n] = self._class(settings, classes)
        return self._losses[classes, n]
