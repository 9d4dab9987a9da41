"""Read the images and labels of a condensed set: from one folder per class, or from a file of tensors.

The label of a folder follows from its name: RDED writes 00000 …, SRe2L, CDA, DWA, INFER, DELT, G-VBSM and the DiRe
release new000 …; others take the classes' own names, such as wnids.

A file of tensors is read without running code:

| suffix | what it may hold |
|---|---|
| .safetensors | `images` and `labels`, as dire-plug's runs have them |
| .npz | arrays of these names |
| .pt, .pth | the same as a mapping, or a pair of both |
| | a list of such pairs, by itself or under "data" (DM): the last one counts |
| | images alone; labels are in a file beside: images_best.pt and labels_best.pt (MTT) |

Images are [n, 3, h, w], [n, 1, h, w] (grey, given out with three equal channels), or with the channels last.
"""

import os
import pickle
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from dire_plug.data.dataset import Dataset
from dire_plug.data.folders import SUFFIXES as IMAGE_SUFFIXES
from dire_plug.data.folders import to_tensor
from dire_plug.data.subsample import resize as resize_pixels
from dire_plug.errors import DirePlugError
from dire_plug.image_files import decode
from dire_plug.types import LOOP

_NUMBERED = re.compile(r"(\D*)(\d+)")


def label_folders(root: Path, dataset: Dataset) -> tuple[list[Path], str]:
    """Return the class folders in `root`, except hidden ones, in the order of their labels, and the rule in words.

    The first rule that fits decides: all are names of the dataset's classes; one prefix and consecutive numbers, whose
    order counts (2 before 10); else sorted by name.

    Raises:
        DirePlugError: there isn't one for each class, or some are names of classes and others aren't.
    """
    names = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    if len(names) != len(dataset.classes):
        raise _wrong_count(root, names, dataset)
    known = set(dataset.classes)
    unknown = [name for name in names if name not in known]
    if not unknown:
        return [root / name for name in dataset.classes], "folders are named after the classes"
    if len(unknown) < len(names):
        raise DirePlugError(
            f"{root}: '{unknown[0]}' is no class of {dataset.name}, whose classes other folders are named after; "
            "is it a set of another dataset?"
        )
    numbered = _by_number(names)
    ordered, order = (numbered, "by their numbers") if numbered else (names, "by their names in alphabetical order")
    rule = f"folders are labelled {order}: {ordered[0]} is {dataset.classes[0]}, {ordered[-1]} {dataset.classes[-1]}"
    return [root / name for name in ordered], rule


def read_folders(
    folders: Sequence[Path], dataset: Dataset, *, ipc: int | None = None, resize: bool = False
) -> tuple[Tensor, Tensor]:
    """Read the images of class folders: uint8, [n, 3, size, size], and labels, [n], class by class, by file name.

    Args:
        folders: by label.
        ipc: the first so many of each class; None takes all.
        resize: whether images of another size than the dataset's are resized, antialiased.

    Raises:
        DirePlugError: a class has no image or fewer than `ipc`, an image is damaged or of another size.
    """
    files = [_list_files(folder, ipc) for folder in folders]
    labels = torch.arange(len(folders)).repeat_interleave(torch.tensor([len(own) for own in files]))
    paths = [path for own in files for path in own]
    size = dataset.size
    images = torch.empty(len(paths), 3, size, size, dtype=torch.uint8)  # stacking a list would take twice the memory

    def read(path: Path) -> Tensor:
        image = to_tensor(decode(path))
        if not resize:
            check_size(image, dataset, where=path)
        return resize_pixels(image[None], size)[0]

    # decoding releases the interpreter's lock
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for index, image in enumerate(pool.map(read, paths)):
            images[index] = image
    return images, labels


def check_size(images: Tensor, dataset: Dataset, *, where: Path) -> None:
    """Raise for images, [..., h, w], of another size than the dataset's."""
    height, width = images.shape[-2:]
    if (height, width) != (dataset.size, dataset.size):
        raise DirePlugError(
            f"{where}: {width}×{height} pixels, the real images of {dataset.name} are {dataset.size}×{dataset.size} "
            "here; --resize resizes the set, --set dataset.size=… the real images where the dataset allows it"
        )


def _list_files(folder: Path, ipc: int | None) -> list[Path]:
    """Return the first `ipc` image files of a class by name, in its folder or in that folder's own `images`."""
    # Tiny-ImageNet keeps the images of a class in a folder of that name
    inner = folder / "images" if (folder / "images").is_dir() else folder
    names = sorted(name for name in os.listdir(inner) if name.lower().endswith(IMAGE_SUFFIXES))
    if not names:
        raise DirePlugError(f"{inner}: the class has no image ({', '.join(IMAGE_SUFFIXES)}); each class needs one")
    if ipc is not None and len(names) < ipc:
        raise DirePlugError(f"{inner}: the class has {len(names)} images, --ipc {ipc} were asked for; lower it")
    return [inner / name for name in names[:ipc]]


def _by_number(names: Sequence[str]) -> list[str] | None:
    """Sort names of one prefix and consecutive numbers by their numbers; return None for other names."""
    found = [_NUMBERED.fullmatch(name) for name in names]
    # as numbers: 10 comes after 2
    parts = sorted((int(match[2]), match[1], match[0]) for match in found if match)
    first = parts[0][0] if parts else 0
    alike = len({prefix for _, prefix, _ in parts}) == 1 and len(parts) == len(names)
    if not alike or [number for number, _, _ in parts] != list(range(first, first + len(names))):
        return None
    return [name for _, _, name in parts]


def _wrong_count(root: Path, names: Sequence[str], dataset: Dataset) -> DirePlugError:
    expected = len(dataset.classes)
    message = f"{root}: holds {len(names)} class folders, {dataset.name} has {expected} classes"
    inner = [name for name in names if sum(entry.is_dir() for entry in os.scandir(root / name)) == expected]
    if inner:
        return DirePlugError(f"{message}; did you mean {root / inner[0]}?")
    if not names and any(name.lower().endswith(IMAGE_SUFFIXES) for name in os.listdir(root)):
        return DirePlugError(f"{message}; its images lie unsorted: sort them into one folder per class")
    if absent := sorted(set(dataset.classes) - set(names)) if set(names) <= set(dataset.classes) else []:
        return DirePlugError(f"{message}; there is no folder for {', '.join(absent[:5])}{' …' * (len(absent) > 5)}")
    return DirePlugError(f"{message}; is it a set of another dataset?")


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
    ordered = _order_channels(images, path)
    # before the images are converted, which takes memory
    shaped_labels = _shape_labels(labels, len(ordered), path)
    shaped = _convert_images(ordered, path)
    if loop is not None and loop.shape != shaped.shape:
        raise DirePlugError(
            f"{path}: '{LOOP}' has the shape {list(loop.shape)}, the images {list(shaped.shape)}; it is another set's"
        )
    return shaped, shaped_labels, rule, loop


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


def _order_channels(images: Tensor, path: Path) -> Tensor:
    """Return a view of images, [n, 1 or 3, h, w]."""
    _require_plain(images, "images", path)
    shape = list(images.shape)
    # only if the first reading is impossible: [n, 3, h, 3] is channels first
    if len(shape) == 4 and shape[1] not in (1, 3) and shape[-1] in (1, 3):
        images = images.permute(0, 3, 1, 2)
    if images.ndim != 4 or images.shape[1] not in (1, 3) or not images.numel():
        raise DirePlugError(
            f"{path}: the images' shape is {shape}; expected [n, 3, h, w] or [n, h, w, 3], n, h and w ≥ 1"
        )
    return images


def _convert_images(images: Tensor, path: Path) -> Tensor:
    """Return images, [n, 3, h, w], as uint8 or float32."""
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
    # a pickled scalar names the class of its dtype, and the module of its constructor, which numpy 2 renamed to `_core`
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
