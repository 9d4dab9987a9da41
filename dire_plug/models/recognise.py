"""What a state dict is of: architecture, outputs and stem, told from its keys and shapes alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from dire_plug.errors import DirePlugError
from dire_plug.models.architectures import architectures, build, is_buildable, size_of, stems
from dire_plug.models.keys import our_keys

OPTIONAL = "num_batches_tracked"
"""Counters that old torch did not save, and that nothing here reads."""


@dataclass(frozen=True)
class Kind:
    """What a network is, but for its weights."""

    architecture: str
    outputs: int
    stem: str

    def __str__(self) -> str:
        """Return the words that messages use."""
        return f"{self.architecture} with {self.outputs} outputs and the {self.stem} stem"


def recognise(state: Mapping[str, Tensor]) -> Kind | None:
    """Return what `state` is of, whatever code named its weights; None where it is nothing that we build."""
    linear = [tensor for tensor in state.values() if tensor.dim() == 2]  # the rest has 1, 3 or 4 axes
    heads = dict.fromkeys(tensor.shape[0] for tensor in reversed(linear))  # the head is mostly the last
    known = [name for name in architectures() if is_buildable(name)]
    kinds = (Kind(name, outputs, stem) for outputs in heads for name in known for stem in stems(name))
    return next((kind for kind in kinds if not differences(translate(state, kind), kind)), None)


def translate(state: Mapping[str, Tensor], kind: Kind) -> dict[str, Tensor]:
    """Return `state` with our keys where it has those that some method's code gives to a network of this kind."""
    return our_keys(kind.architecture, state, _state_of(kind, None))


def check(state: Mapping[str, Tensor], expected: Kind, path: Path) -> None:
    """Refuse a state dict that isn't of the expected kind.

    Raises:
        DirePlugError: it says what the file holds and what was expected.
    """
    if not (found := differences(state, expected)):
        return
    other = recognise(state)
    if other is not None:
        raise DirePlugError(f"{path}: holds a {other}; expected {expected}. Use another file, or change the recipe")
    shown = "\n".join(f"  {line}" for line in found[:5]) + ("\n  …" if len(found) > 5 else "")
    raise DirePlugError(f"{path}: doesn't hold a {expected}, nor another network that is known here:\n{shown}")


def differences(state: Mapping[str, Tensor], kind: Kind) -> list[str]:
    """Return how keys and shapes of `state` differ from those of `kind`, one `key: what` a line."""
    wanted = _state_of(kind, size_of(kind.architecture, state))
    lines = [f"{key}: not in the file" for key in wanted if key not in state and not key.endswith(OPTIONAL)]
    lines += [f"{key}: in the file, but not in the network" for key in state if key not in wanted]
    lines += [
        f"{key}: {list(state[key].shape)} in the file, {list(wanted[key].shape)} in the network"
        for key in wanted
        if key in state and state[key].shape != wanted[key].shape
    ]
    return lines


@lru_cache(maxsize=64)
def _state_of(kind: Kind, size: int | None) -> Mapping[str, Tensor]:
    """Return the state dict of a network of this kind, without memory behind it."""
    with torch.device("meta"):
        return build(kind.architecture, outputs=kind.outputs, stem=kind.stem, size=size).state_dict()
