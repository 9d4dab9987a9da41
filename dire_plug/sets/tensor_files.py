"""Read condensed images from a file of tensors, from any source, without running code.

| suffix | what it may hold |
|---|---|
| .safetensors | `images` and `labels`, as dire-plug's runs have them |
| .npz | arrays of these names |
| .pt, .pth | the same as a mapping, or a pair of both |
| | a list of such pairs, by itself or under "data" (DM): the last one counts |
| | images alone; labels are in a file beside: images_best.pt and labels_best.pt (MTT) |

Images are [n, 3, h, w], [n, 1, h, w] (grey, given out with three equal channels), or with the channels last.
"""

import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from dire_plug.errors import DirePlugError
from dire_plug.types import LOOP

SUFFIXES = (".safetensors", ".pt", ".pth", ".npz")
IMAGES, LABELS = ("images", "x", "data"), ("labels", "y", "targets")
"""The keys that images and labels may have."""
DTYPES = (
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
)
"""The dtypes that are read; torch can't even compare others, such as uint16 or float8."""


def read_tensor_file(path: Path) -> tuple[Tensor, Tensor, str, Tensor | None]:
    """Read a file of images and labels.

    Returns:
        Images, [n, 3, h, w], uint8 or float32, in whatever space; labels, [n], int64; where both were found, in words;
        and the same images in the loop's space, where a run of ours kept them.

    Raises:
        DirePlugError: the file can't be read safely, holds something else, or a value isn't finite.
    """
    if path.suffix == ".safetensors":
        content: Any = _read_safetensors(path)
    else:
        content = _read_npz(path) if path.suffix == ".npz" else _read_torch(path)
    images, labels, rule = _find_pair(content, path)
    loop = content.get(LOOP) if isinstance(content, Mapping) and path.suffix == ".safetensors" else None
    shaped = _shape_images(images, path)
    if loop is not None and loop.shape != shaped.shape:
        raise DirePlugError(
            f"{path}: '{LOOP}' has the shape {list(loop.shape)}, the images {list(shaped.shape)}; it is another set's"
        )
    return shaped, _shape_labels(labels, len(shaped), path), rule, loop


def _find_pair(content: Any, path: Path) -> tuple[Tensor, Tensor, str]:
    """Return images, labels, and where they were found in what a file holds."""
    if isinstance(content, Tensor):
        beside = labels_beside(path)
        if not beside.is_file() or not isinstance(labels := _read_torch(beside), Tensor):
            raise DirePlugError(
                f"{path}: holds one tensor, and its labels are not in {beside.name} beside it; put them there, or save "
                "both as {'images': …, 'labels': …}"
            )
        return content, labels, f"labels are those of {beside.name}"
    if isinstance(content, Mapping):
        images, labels = (_first(content, keys) for keys in (IMAGES, LABELS))
        if isinstance(images, Tensor) and isinstance(labels, Tensor):
            return images, labels, "images and labels by their keys"
        return _find_last_pair(content.get("data"), path, held=f"the keys {', '.join(map(str, list(content)[:8]))}")
    return _find_last_pair(content, path, held=f"a {type(content).__name__}")


def _find_last_pair(content: Any, path: Path, *, held: str) -> tuple[Tensor, Tensor, str]:
    """Return the pair of tensors that `content` is, or the last one of a list of such."""
    if _is_pair(content):
        return content[0], content[1], "a pair of images and labels"
    if isinstance(content, Sequence) and content and _is_pair(content[-1]):
        return *content[-1], f"the last of {len(content)} sets"
    raise DirePlugError(
        f"{path}: holds {held}; expected images and labels under keys such as {IMAGES[0]} and {LABELS[0]}, a pair, or "
        "DM's list of pairs under data"
    )


def _is_pair(content: Any) -> bool:
    return isinstance(content, list | tuple) and len(content) == 2 and all(isinstance(one, Tensor) for one in content)


def _first(content: Mapping[Any, Any], keys: Sequence[str]) -> Any:
    return next((content[key] for key in keys if key in content), None)


def labels_beside(path: Path) -> Path:
    """Return where the labels of a file that holds images alone lie: `images_5000.pt` and `images_zca_5000.pt` have
    theirs in `labels_5000.pt`, as MTT names them."""
    name = re.sub(r"^images(_zca)?", "labels", path.stem)
    return path.with_name(f"{name if name != path.stem else f'{name}_labels'}{path.suffix}")


def _require_plain(tensor: Tensor, what: str, path: Path) -> None:
    """Raise for a tensor whose numbers don't all lie in the file, one by one, in a type that can be computed with.

    An expanded one, of stride 0, is as small as a number in the file and as large as its shape says in memory.
    """
    plain = tensor.layout is torch.strided and not (tensor.is_quantized or tensor.is_meta or tensor.is_nested)
    if not plain or tensor.dtype not in DTYPES:
        kind = str(tensor.dtype if plain else tensor.layout).removeprefix("torch.")
        found = (
            "quantized" if tensor.is_quantized else "nested" if tensor.is_nested else "meta" if tensor.is_meta else kind
        )
        known = ", ".join(str(one).removeprefix("torch.") for one in DTYPES)
        raise DirePlugError(f"{path}: the {what} are a tensor of the kind {found}; save a plain one ({known})")
    held, needed = tensor.untyped_storage().nbytes(), tensor.numel() * tensor.element_size()
    if needed > held:
        raise DirePlugError(
            f"{path}: the {what} are an expanded tensor: {needed:,} bytes by their shape, {held:,} in the file; "
            "save them after .contiguous()"
        )


def _shape_images(images: Tensor, path: Path) -> Tensor:
    _require_plain(images, "images", path)
    shape = list(images.shape)
    # only if the first reading is impossible: [n, 3, h, 3] is channels first
    if len(shape) == 4 and shape[1] not in (1, 3) and shape[-1] in (1, 3):
        images = images.permute(0, 3, 1, 2)
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not images.numel():
        raise DirePlugError(
            f"{path}: the images' shape is {shape}; expected [n, 3, h, w] or [n, h, w, 3], n, h and w ≥ 1"
        )
    if images.is_floating_point():
        if bad := int((~images.isfinite().flatten(1).all(1)).sum()):
            raise DirePlugError(f"{path}: {bad} of {len(images)} images hold NaN or infinity; synthesize them again")
        images = images.float()
    elif images.dtype != torch.uint8:
        if int(images.min()) < 0 or int(images.max()) > 255:
            raise DirePlugError(
                f"{path}: {images.dtype} images with values outside 0 … 255; save them as uint8, or as floats"
            )
        images = images.to(torch.uint8)
    # three equal channels of a grey image
    return images.detach().expand(-1, 3, -1, -1).contiguous()


def _shape_labels(labels: Tensor, count: int, path: Path) -> Tensor:
    _require_plain(labels, "labels", path)
    if tuple(labels.shape) not in ((count,), (count, 1)):
        raise DirePlugError(
            f"{path}: the labels' shape is {list(labels.shape)} for {count} images; one class number an image is "
            "needed (of soft labels, the class that each image was made for)"
        )
    flat = labels.detach().flatten()
    if flat.is_floating_point() and not bool((flat == flat.round()).all()):
        raise DirePlugError(f"{path}: labels must be class numbers, and these have fractions (such as {flat[0]:.3g})")
    return flat.to(torch.int64)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return safetensors.torch.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise DirePlugError(f"{path}: cannot be read as safetensors: {error}. Make or get the file again") from error


def _read_npz(path: Path) -> dict[str, Tensor]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    except Exception as error:  # NumPy's reader and its zip file may raise anything where bytes are wrong
        raise DirePlugError(f"{path}: cannot be read as arrays without pickles: {error}. Save it again") from error


def _read_torch(path: Path) -> Any:
    """Load a file of torch.save's without running code; DM keeps accuracies beside the images, as numpy's scalars."""
    scalars: list[Any] = [np.dtype, type(np.dtype("float64")), type(np.dtype("int64"))]
    named: list[Any] = [
        (np.float64(0).__reduce__()[0], f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")
    ]
    try:
        with torch.serialization.safe_globals([*scalars, *named]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused is not None:
            raise DirePlugError(
                f"{path}: holds more than tensors and plain values ({refused[1]}), which could run code, so it is not "
                "loaded. Save images and labels alone with torch.save"
            ) from error
        raise DirePlugError(f"{path}: isn't a file of torch.save's. Get the file again") from error
    except Exception as error:  # torch's reader may raise anything while it takes other bytes for a pickle
        reason = str(error).split(". ")[0] or "it is empty"
        raise DirePlugError(f"{path}: cannot be read: {reason}. Make or get the file again") from error
