"""Write a finished run's condensed set in forms that other tools read, with a card that says how it was made.

| form | what is written |
|---|---|
| folder | a folder for each class, named as `measure` and `datasets` sort them, with PNG files |
| npz | `images`, uint8 [n, 3, h, w], and `labels`, int64 [n]; the card has the classes' names |
| huggingface | train/ with the same folders, and the card as README.md, which `load_dataset(PATH)` reads |

Pixels and labels are exactly those that the run's students read, so `measure` and `evaluate` find the same values.
"""

from __future__ import annotations

import re
import shlex
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
import yaml
from PIL import Image
from torch import Tensor

from dire_plug.errors import DirePlugError
from dire_plug.files import make_folder, write_atomically
from dire_plug.measures import run_measures
from dire_plug.recipe.loading import path_setting
from dire_plug.recipe.model import RDED
from dire_plug.results.report.images import count_classes, has_images, saved_per_class
from dire_plug.results.report.runs import ReportRun
from dire_plug.stages.images import read_saved, read_tensors
from dire_plug.store.provenance import Code
from dire_plug.table_files import escape_markdown

Form = Literal["folder", "npz", "huggingface"]
FORMS: tuple[Form, ...] = get_args(Form)
CARD, RECIPE, TRAIN = "README.md", "recipe.yaml", "train"


def export_set(run: ReportRun, path: Path, *, form: Form) -> int:
    """Write the condensed set of a run with its card; return the number of images.

    Args:
        path: a folder, or with `npz` a file, whose card and recipe lie beside it; it must not be there yet.

    Raises:
        DirePlugError: something is at `path`, or where its card or recipe would be; or the run has no images or damaged
            ones.
    """
    if form == "npz" and path.suffix != ".npz":
        raise DirePlugError(f"{path}: end the name of an npz file in .npz")
    for target in (path, path.with_suffix(".md"), path.with_suffix(".yaml")) if form == "npz" else (path,):
        if target.exists():
            raise DirePlugError(f"{target}: is there already; name another, or remove it")
    images, labels = read_pixels(run)
    names = [run.class_name(label) for label in range(count_classes(run))]
    make_folder(path.absolute().parent)
    # whole or absent
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.absolute().parent) as work:
        made = Path(work) / path.name
        if form == "npz":
            np.savez_compressed(made, images=images.numpy(), labels=labels.numpy())
            card, recipe = path.with_suffix(".md"), path.with_suffix(".yaml")
        else:
            _write_folders(made / TRAIN if form == "huggingface" else made, images, labels, names)
            card, recipe = made / CARD, made / RECIPE
        write_atomically(card, make_card(run, form=form, classes=names, images=images, recipe=recipe.name))
        write_atomically(recipe, _recipe(run))
        shutil.move(made, path)
    return len(labels)


def read_pixels(run: ReportRun) -> tuple[Tensor, Tensor]:
    """Return all images that a run's students learned from, [n, 3, h, w] in uint8, and their labels, [n] in int64.

    Class by class. Tensors, which a recipe may prefer to the saved files, are rounded.

    Raises:
        DirePlugError: the run has no images, or one is missing or damaged.
    """
    if not has_images(run):
        raise DirePlugError(f"{run.name}: this run has no images of its own; name one of another arm than {run.arm}")
    if run.recipe["evaluate"]["source"] == "tensor":
        images, labels = read_tensors(run.folder.path)
        order = torch.argsort(labels, stable=True)
        return (images[order] * 255).round().to(torch.uint8), labels[order].long()
    suffix = run.adapter.scripts[run.recipe["recover"]["script"]].suffix
    folder, count = run.folder.path / "images", count_classes(run)
    return read_saved(folder, run.adapter, classes=count, ipc=saved_per_class(run), suffix=suffix)


def name_folders(classes: Sequence[str]) -> list[str]:
    """Return the class folders' names: the classes' own where their order is that of labels, else numbers.

    Readers sort the names to number the labels; a name may also be none of a folder, such as T-shirt/top.
    """
    safe = all(name and name == Path(name).name and name[0] != "." for name in classes)
    if safe and list(classes) == sorted(set(classes)):
        return list(classes)
    digits = len(str(len(classes) - 1))
    return [f"{label:0{digits}d}" for label in range(len(classes))]


def _write_folders(root: Path, images: Tensor, labels: Tensor, classes: Sequence[str]) -> None:
    folders, seen = name_folders(classes), [0] * len(classes)
    for name in folders:
        make_folder(root / name)
    for array, label in zip(images.permute(0, 2, 3, 1).numpy(), labels.tolist(), strict=True):
        Image.fromarray(np.ascontiguousarray(array)).save(root / folders[label] / f"{seen[label]:05d}.png")
        seen[label] += 1


# The card: Markdown, below the fields that Hugging Face's readers know.


def make_card(run: ReportRun, *, form: Form, classes: Sequence[str], images: Tensor, recipe: str) -> str:
    """Return the card of a run's set as Markdown; it has no path of this machine and no time.

    Args:
        recipe: the name of the recipe's file beside it.
    """
    fields = _head(run, form=form, classes=classes)
    head = yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)
    session, found = run.provenance["sessions"][-1], run.provenance
    size = f"{images.shape[-1]}×{images.shape[-2]}"
    without = "dire-plug's native engine, not its code"
    if run.engine == "none":
        without = f"{'images of real patches' if run.arm == RDED else 'real images'}, nothing synthesized"
    commit = f"commit `{found['commit']}`" if found["commit"] and run.engine == "upstream" else without
    upstream, title = found["upstream"], _title(run)
    of_plugin = ", ".join(f"{name} {settings}" for name, settings in run.terms.items()) or "none"
    rows = {
        "method": f"{run.method}, {_address(upstream['repository'])}, {commit}",
        "arm": escape_markdown(f"{run.arm}; regularizers: {of_plugin}"),
        "dataset": f"{escape_markdown(run.dataset)}, sha256 `{found['dataset']}`",
        "images": f"{len(images)} of {len(classes)} classes, IPC {run.ipc}, {size} pixels",
        "seed": str(run.seed),
        "engine": escape_markdown(run.engine),
        "teacher": f"sha256 `{run.metrics['networks']['teacher']}`",
        "dire-plug": escape_markdown(str(Code(session["code"]["commit"], session["code"]["changed"]))),
        "versions": escape_markdown(", ".join(f"{name} {version}" for name, version in session["versions"].items())),
    }
    measured = [
        f"| `{one.key}` | {value:.{one.digits}f} |"
        for one in run_measures()
        if (value := one.read(run.metrics)) is not None
    ]
    on_validation = run.metrics.get("judged") == "validation"
    judged = "validation images, held out of the training set" if on_validation else "the test images"
    # the recipe of an arm is one of its own: without a term it is a baseline
    arm = run.arm if run.terms or run.engine == "none" else "baseline"
    again = f"dire-plug run {run.method} --recipe {shlex.quote(recipe)} --arm {shlex.quote(arm)} --seed {run.seed}"
    if path := _without_paths(run.recipe["dataset"].get("path")):
        again += f" --set {shlex.quote(path_setting('dataset.path', path))}"
    return "\n".join(
        [
            f"---\n{head}---",
            f"# {escape_markdown(title)}\n",
            "A condensed dataset: images that were optimised, or chosen, so that networks learn from few of them.\n",
            "| how it was made | |\n|---|---|",
            *(f"| {key} | {value} |" for key, value in rows.items()),
            f"\nThe same again, with dire-plug and the recipe beside this card:\n\n    {again}\n",
            f"## Measured\n\nOn {judged}; one synthesis, so no spread.\n",
            "| measure | |\n|---|---:|",
            *measured,
            f"\n## Classes\n\n{', '.join(f'{label}: {escape_markdown(name)}' for label, name in enumerate(classes))}\n",
            "## Licence\n",
            f"The licence of the method's repository: {escape_markdown(upstream.get('licence', 'unknown'))}. "
            f"The images derive from {escape_markdown(run.dataset)}: its own terms hold for them too, and those of the "
            "weights that were used. dire-plug's licence is that of its code, not of these images.",
            "",
        ]
    )


def _title(run: ReportRun) -> str:
    return f"{run.method} on {run.dataset}, IPC {run.ipc}, {run.arm}"


def _address(repository: str) -> str:
    """Return an address as readers of Markdown make a link of it, which an escape would break."""
    return repository if re.fullmatch(r"https?://[\w./:@-]+", repository) else escape_markdown(repository)


def _head(run: ReportRun, *, form: Form, classes: Sequence[str]) -> dict[str, Any]:
    head: dict[str, Any] = {
        "license": "other",
        "pretty_name": _title(run),
        "task_categories": ["image-classification"],
        "tags": ["dataset-condensation", "dataset-distillation", "dire-plug"],
    }
    if form == "huggingface":
        names = {str(label): name for label, name in enumerate(classes)}
        head["configs"] = [{"config_name": "default", "data_files": [{"split": "train", "path": f"{TRAIN}/**"}]}]
        features = [{"name": "image", "dtype": "image"}, {"name": "label", "dtype": {"class_label": {"names": names}}}]
        head["dataset_info"] = {"features": features}
    return head


def _recipe(run: ReportRun) -> str:
    return yaml.safe_dump(_without_paths(run.recipe), sort_keys=False, allow_unicode=True, width=100)


def _without_paths(value: Any) -> Any:
    """Return a recipe whose absolute paths, which are of one machine, name the file alone."""
    if isinstance(value, dict):
        return {key: _without_paths(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_paths(one) for one in value]
    return f"PATH/TO/{Path(value).name}" if isinstance(value, str) and Path(value).is_absolute() else value
