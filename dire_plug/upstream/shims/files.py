"""Link files and folders into the child's copy of the tree, at the paths that scripts hard-code.

Needed by DWA `distillation_cifar.py` 144, 146, `distillation_tiny.py` 165 (`./pretrain/save/…/ckpt.pth`), INFER
`ufc_cifar.py` 2 (`./models/`), 141-154 (`pretrained/…/ckpt.pth`) and MTT `distill.py` 233 (it writes to
`./logged_files/…`, and the copy doesn't outlive the run). Absolute paths are `torch_load`'s `replace`.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from dire_plug.errors import DirePlugError
from dire_plug.files import make_folder
from dire_plug.upstream.source.tree import MANIFEST


def install(*, device: str, links: Mapping[str, str]) -> None:
    """Link paths, relative to the script's folder, to absolute ones, of files or folders.

    Raises:
        DirePlugError: a path leaves the copy of the tree or is taken, or there is nothing at its source.
    """
    here = Path.cwd()
    root = next((folder for folder in (here, *here.parents) if (folder / MANIFEST).is_file()), here)
    for name, source in links.items():
        _link(name, Path(source), root)


def _link(name: str, source: Path, root: Path) -> None:
    target = Path(os.path.abspath(name))
    if Path(name).is_absolute() or root not in target.parents or target == Path.cwd():
        raise DirePlugError(f"shim 'files', {name}: must be a relative path inside upstream's tree")
    if not source.is_absolute() or not source.exists():
        raise DirePlugError(f"shim 'files', {name}: nothing to link at {source}; give an absolute path that exists")
    make_folder(target.parent)
    if target.is_symlink() and os.readlink(target) == str(source):
        return
    try:
        target.symlink_to(source, target_is_directory=source.is_dir())
    except OSError as error:
        raise DirePlugError(f"shim 'files', {target}: cannot be linked to {source}: {error.strerror}") from error
