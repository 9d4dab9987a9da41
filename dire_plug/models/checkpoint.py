"""Save and load networks: our own files, which carry their description, and third-party ones.

Our own are safetensors: the weights, and in the metadata the architecture, outputs, stem and normalisation, so that no
later stage has to guess the stem. Third-party files are read with `weights_only=True`, and rejected where they hold
another network than expected.
"""

import argparse
import io
import json
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from dire_plug.errors import DirePlugError
from dire_plug.files import write_atomically
from dire_plug.models.architectures import architectures, build, is_buildable, size_of, stems
from dire_plug.models.upstream_keys import Rename, our_keys

# What a state dict is of: architecture, outputs and stem, told from its keys and shapes alone.


OPTIONAL = "num_batches_tracked"
"""Counters that old torch did not save, and that nothing here reads."""


@dataclass(frozen=True)
class NetworkSpec:
    """A network without its weights: architecture, width of the head, stem."""

    architecture: str
    outputs: int
    stem: str

    def __str__(self) -> str:
        """Return the words that messages use."""
        return f"{self.architecture} with {self.outputs} outputs and the {self.stem} stem"


def identify(state: Mapping[str, Tensor]) -> NetworkSpec | None:
    """Return what `state` is of, whatever code named its weights; None where it is nothing that we build."""
    linear = [tensor for tensor in state.values() if tensor.dim() == 2]  # the rest has 1, 3 or 4 axes
    heads = dict.fromkeys(tensor.shape[0] for tensor in reversed(linear))  # the head is mostly the last
    # sketches on the meta device: trying every architecture costs no memory
    known = [name for name in architectures() if is_buildable(name)]
    specs = (NetworkSpec(name, outputs, stem) for outputs in heads for name in known for stem in stems(name))
    return next((spec for spec in specs if not differences(translate(state, spec), spec)), None)


def translate(state: Mapping[str, Tensor], spec: NetworkSpec) -> dict[str, Tensor]:
    """Return `state` with our keys where it has those that some method's code gives to a network of this kind."""
    return our_keys(spec.architecture, state, _state_of(spec, None))


def check(state: Mapping[str, Tensor], expected: NetworkSpec, path: Path) -> None:
    """Raise for a state dict that isn't of the expected kind.

    Raises:
        DirePlugError: it says what the file holds and what was expected.
    """
    if not (found := differences(state, expected)):
        return
    other = identify(state)
    if other is not None:
        raise DirePlugError(f"{path}: holds a {other}; expected {expected}. Use another file, or change the recipe")
    shown = "\n".join(f"  {line}" for line in found[:5]) + ("\n  …" if len(found) > 5 else "")
    raise DirePlugError(f"{path}: doesn't hold a {expected}, nor another network that is known here:\n{shown}")


def differences(state: Mapping[str, Tensor], spec: NetworkSpec) -> list[str]:
    """Return how keys and shapes of `state` differ from those of `spec`, one `key: what` a line."""
    wanted = _state_of(spec, size_of(spec.architecture, state))
    lines = [f"{key}: not in the file" for key in wanted if key not in state and not key.endswith(OPTIONAL)]
    lines += [f"{key}: in the file, but not in the network" for key in state if key not in wanted]
    lines += [
        f"{key}: {list(state[key].shape)} in the file, {list(wanted[key].shape)} in the network"
        for key in wanted
        if key in state and state[key].shape != wanted[key].shape
    ]
    return lines


@lru_cache(maxsize=64)
def _state_of(spec: NetworkSpec, size: int | None) -> Mapping[str, Tensor]:
    """Return the state dict of a network of this kind, without memory behind it."""
    with torch.device("meta"):
        return build(spec.architecture, outputs=spec.outputs, stem=spec.stem, size=size).state_dict()


DESCRIPTION = "dire-plug"
PREFIX = "module."
Triple = tuple[float, float, float]


@dataclass
class Network:
    """A network and what is needed to use it.

    Attributes:
        model: the network.
        architecture, outputs, stem: as `build` takes them.
        mean, std: the normalisation of the images that it takes.
    """

    model: nn.Module
    architecture: str
    outputs: int
    stem: str
    mean: Triple
    std: Triple


WHITENING = "whitening."
"""The beginning of the keys of what whitens, in a file of ours."""


class Whitened(nn.Module):
    """Whitens images, [N, 3, H, W] in [0, 1], and classifies them.

    Args:
        network: takes whitened images of that shape.
        mean: [D], with D = 3·H·W, of the flattened pixels.
        matrix: [D, D], symmetric.
    """

    mean: Tensor
    matrix: Tensor

    def __init__(self, network: nn.Module, *, mean: Tensor, matrix: Tensor) -> None:
        super().__init__()
        self.network = network
        # not in the state dict, whose keys stay those of the plain network
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("matrix", matrix, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the network's outputs, [N, K]."""
        outputs: Tensor = self.network(((images.flatten(1) - self.mean) @ self.matrix).reshape(images.shape))
        return outputs

    def whitening(self) -> dict[str, Tensor]:
        """Return what whitens, by the keys of a file."""
        return {f"{WHITENING}mean": self.mean, f"{WHITENING}matrix": self.matrix}


def save(path: Path, network: Network) -> None:
    """Write a network with its description as safetensors, atomically; `Whitened` ones with what whitens."""
    # `NetworkSpec` describes the network inside, and what whitens goes under keys of its own
    whitened = network.model if isinstance(network.model, Whitened) else None
    state = _plain_state(network.model if whitened is None else whitened.network)
    spec = NetworkSpec(network.architecture, network.outputs, network.stem)
    check(state, spec, path)
    if whitened is not None:
        state |= {key: value.detach().cpu().contiguous() for key, value in whitened.whitening().items()}
    description = {**asdict(spec), "mean": network.mean, "std": network.std}
    write_atomically(path, safetensors.torch.save(state, metadata={DESCRIPTION: json.dumps(description)}))


def load(path: Path, device: torch.device) -> Network:
    """Read a network that `save` wrote; it comes back in eval mode on `device`.

    Raises:
        DirePlugError: the file isn't one of ours, or is damaged.
    """
    state, spec, (mean, std) = _read_ours(path)
    whitening = {key.removeprefix(WHITENING): state.pop(key) for key in list(state) if key.startswith(WHITENING)}
    check(state, spec, path)
    size = size_of(spec.architecture, state)
    model = build(spec.architecture, outputs=spec.outputs, stem=spec.stem, size=size)
    model.load_state_dict(state)
    if whitening:
        model = Whitened(model, **whitening)
    return Network(model.to(device).eval(), spec.architecture, spec.outputs, spec.stem, mean, std)


def read_foreign(path: Path, *, architecture: str, outputs: int, stem: str) -> dict[str, Tensor]:
    """Read weights from a file of ours or of others, for a network of the given kind.

    Layouts: {"state_dict": …} and {"model": …} with whatever stands beside, a bare state dict, each with or without the
    prefix "module.", with our keys or those of some method's code; or our own safetensors. Build the network with
    `size_of(architecture, state)` as its size.

    Returns:
        dict: our keys, without prefix; tensors on the CPU.

    Raises:
        DirePlugError: the file can't be read safely, or holds something else; it says what.
    """
    state = _read_ours(path)[0] if path.suffix == ".safetensors" else _find_state(_read_torch(path), path)
    # saved from DataParallel
    if state and all(key.startswith(PREFIX) for key in state):
        state = {key.removeprefix(PREFIX): value for key, value in state.items()}
    spec = NetworkSpec(architecture, outputs, stem)
    state = translate(state, spec)
    check(state, spec, path)
    return _with_counters(state)


def write_for_upstream(model: nn.Module, path: Path, layout: str, *, keys: Rename | None = None) -> None:
    """Write weights as an upstream script reads them.

    Args:
        model: the network.
        path: the file to write, atomically.
        layout: `state_dict`: {"state_dict": …}; `state_dict.module`: likewise, with the prefix "module."; `model`:
            {"model": …}; `bare`: the state dict itself.
        keys: from our key of a weight to upstream's, as `upstream_keys` gives it; None where they agree.

    Raises:
        DirePlugError: unknown layout.
    """
    state = _plain_state(model)
    if keys is not None:
        state = {keys(key): value for key, value in state.items()}
    layouts: dict[str, Any] = {
        "state_dict": {"state_dict": state},
        "state_dict.module": {"state_dict": {f"{PREFIX}{key}": value for key, value in state.items()}},
        "model": {"model": state},
        "bare": state,
    }
    if layout not in layouts:
        raise DirePlugError(f"checkpoint layout '{layout}' is unknown; known: {', '.join(layouts)}")
    content = io.BytesIO()
    torch.save(layouts[layout], content)
    write_atomically(path, content.getvalue())


def _plain_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the state dict without a DataParallel prefix: copies on the CPU."""
    inner = model.module if isinstance(model, nn.DataParallel) else model
    return {key: value.detach().cpu().clone().contiguous() for key, value in inner.state_dict().items()}


def _read_ours(path: Path) -> tuple[dict[str, Tensor], NetworkSpec, tuple[Triple, Triple]]:
    """Return the weights of a file that `save` wrote, what they are of, and the mean and standard deviation."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        state = safetensors.torch.load_file(path)
        found = json.loads(metadata.get(DESCRIPTION, "null"))
    except (OSError, safetensors.SafetensorError, ValueError) as error:
        raise DirePlugError(f"{path}: cannot be read as safetensors: {error}. Make or get the file again") from error
    if not isinstance(found, dict) or set(found) != {*NetworkSpec.__dataclass_fields__, "mean", "std"}:
        raise DirePlugError(f"{path}: carries no description of dire-plug's, so its architecture and stem are unknown")
    mean, std = tuple(found.pop("mean")), tuple(found.pop("std"))
    return state, NetworkSpec(**found), (mean, std)


def _read_torch(path: Path) -> Any:
    """Load a file of torch.save's without running code; torchvision's reference scripts keep an argparse Namespace."""
    try:
        # allowed for this load alone: unpickling a Namespace runs no code
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise DirePlugError(f"{path}: no such checkpoint") from error
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused is None:
            raise DirePlugError(f"{path}: isn't a checkpoint of torch.save's. Get the file again") from error
        raise DirePlugError(
            f"{path}: holds more than tensors and plain values ({refused[1]}), which could run code, so it is not "
            "loaded. Save its state dict alone with torch.save"
        ) from error
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        reason = str(error).split(". ")[0] or "it is empty"
        raise DirePlugError(f"{path}: cannot be read as a checkpoint: {reason}. Make or get the file again") from error
    except Exception as error:  # torch's reader may raise anything while it takes other bytes for a pickle
        raise DirePlugError(f"{path}: isn't a checkpoint of torch.save's. Get the file again") from error


def _find_state(content: Any, path: Path) -> dict[str, Tensor]:
    """Return the state dict inside what a file holds."""
    for found in (content, *(content.get(key) for key in ("state_dict", "model") if isinstance(content, Mapping))):
        if isinstance(found, Mapping) and found and all(isinstance(value, Tensor) for value in found.values()):
            return {str(key): value for key, value in found.items()}
    held = (
        f"the keys {', '.join(map(str, list(content)[:8]))}" if isinstance(content, Mapping) else type(content).__name__
    )
    raise DirePlugError(f'{path}: holds {held}; expected a state dict, or one under "state_dict" or "model"')


def _with_counters(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add the counters of batch normalisation where an old file lacks them, so that loading is strict."""
    means = [key for key in state if key.endswith("running_mean")]
    return {key.replace("running_mean", OPTIONAL): torch.tensor(0) for key in means} | state
