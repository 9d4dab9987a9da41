"""Specify a synthesis as data, and load the files that the specification names."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from dire_plug.errors import DirePlugError
from dire_plug.types import CORESET, Coreset, RealEmbeddings, StartImages


@dataclass(frozen=True)
class SynthesisSpec:
    """Everything that a synthesis is made from, as job.json carries it to the child.

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
        components: what `--accelerate fast` stands for here, by the names in `acceleration.COMPONENTS`.
        embedder: where no trained network is in the loop, what embeds instead: see `embeddings.FrozenNetwork`.
        frozen: key → what embeds outside of the loop, for the terms alone: likewise.
        in_loop: whether the terms work in the loop's own networks too.
        chained: whether a plugin may keep something from pass to pass.
        independent: whether the script's slots are (`Script.slots`), so that a pass resumes at its first missing one.
        batches: the batches of a pass to make, where they are seeded by themselves; the others are left out. None: all.
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
    components: tuple[str, ...] = ()
    frozen: dict[str, dict[str, Any]] = field(default_factory=dict)
    in_loop: bool = True
    chained: bool = True
    independent: bool = False
    batches: tuple[int, ...] | None = None
    code: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the specification as JSON-like data."""
        return asdict(self)


def load_start(start: dict[str, Any]) -> StartImages:
    """Return how images start, by the `start` of a specification.

    Raises:
        DirePlugError: the file of real images cannot be read.
    """
    shape = tuple(start["shape"]) if start["shape"] else None
    if start["kind"] != "real":
        return StartImages(start["kind"], shape)
    pixels = _load(start["file"], "cpu")["images"]  # kept off the GPU: only the rows of a slot go there
    return StartImages("real", shape, pixels, tuple(start["mean"]), tuple(start["std"]))


def load_real(file: str, device: str) -> RealEmbeddings:
    """Return the real embeddings of one network, with their coreset where the file has one.

    Raises:
        DirePlugError: the file cannot be read.
    """
    tensors = _load(file, device)
    own = {name.removeprefix(CORESET): tensors[name] for name in tensors if name.startswith(CORESET)}
    return RealEmbeddings(tensors["values"], tensors["labels"], Coreset(**own) if own else None)


def _load(file: str, device: str) -> dict[str, Tensor]:
    path = Path(file)
    try:
        return load_file(path, device=device)
    except Exception as error:
        raise DirePlugError(f"{path}: cannot be read as safetensors: {error}") from error
