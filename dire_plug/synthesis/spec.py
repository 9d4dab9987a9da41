"""All that makes a synthesis, as data."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class SynthesisSpec:
    """All that makes a synthesis, as job.json carries it to the child.

    Attributes:
        adapter: name of the method.
        recover: the recipe's section.
        regularizers: plugin → settings.
        classes, ipc, seed: of the run; `steps` is the number of iterations of a slot.
        device: where the script runs.
        start: {"kind", "shape", "file"}: see `StartImages`; the file holds `images`.
        real: key of a network → file with `values` and `labels`.
        passes: folder of the finished passes.
        networks: keys of the networks in the loop, in the order in which a patch hands them over.
        accelerate: freeze the networks' weights where the adapter says that their gradients are never used.
        embedder: where no trained network is in the loop, what embeds instead: see `embedder.Embedder`.
        frozen: key → what embeds outside of the loop, for the terms alone: likewise.
        in_loop: whether the terms work in the loop's own networks too.
        chained: whether a plugin may keep something from pass to pass.
        code: "methods/NAME" and "regularizers/NAME" → the digest of a plugin's code, as `plugins.code_of` gives it.
    """

    adapter: str
    recover: dict[str, Any]
    regularizers: dict[str, dict[str, Any]]
    classes: int
    ipc: int
    steps: int
    seed: int
    device: str
    start: dict[str, Any]
    real: dict[str, str]
    passes: str
    networks: tuple[str, ...] = ("teacher",)
    embedder: dict[str, Any] | None = None
    accelerate: bool = False
    frozen: dict[str, dict[str, Any]] = field(default_factory=dict)
    in_loop: bool = True
    chained: bool = True
    code: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the specification as JSON-like data."""
        return asdict(self)
