"""The runs of a report: found by name, read from their folders alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dire_plug import plugins
from dire_plug.errors import DirePlugError
from dire_plug.files import read_json
from dire_plug.pipeline import FinishedRun
from dire_plug.recipe import counted, read_yaml
from dire_plug.store.runs import LOSSES, RunFolder, find_run
from dire_plug.types import Adapter

COMPARISON = "compare.json"


@dataclass(frozen=True)
class ReportRun:
    """One finished run.

    Attributes:
        folder: where it lies.
        metrics, recipe, provenance: what its metrics.json, recipe.yaml and provenance.json hold.
    """

    folder: RunFolder
    metrics: dict[str, Any]
    recipe: dict[str, Any]
    provenance: dict[str, Any]

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.folder.path.name

    @property
    def method(self) -> str:
        """The method."""
        return str(self.recipe["method"])

    @property
    def arm(self) -> str:
        """The arm."""
        return str(self.metrics["arm"])

    @property
    def seed(self) -> int:
        """The seed."""
        return int(self.metrics["seed"])

    @property
    def engine(self) -> str:
        """Who synthesized; `none` for real images."""
        return str(self.metrics["engine"])

    @property
    def ipc(self) -> int:
        """The recipe's images per class."""
        return int(self.metrics["ipc"])

    @property
    def dataset(self) -> str:
        """The dataset's name with its size, where the recipe sets one."""
        section = self.recipe["dataset"]
        size = section.get("size")
        return f"{section['name']} at {size}×{size}" if size else str(section["name"])

    @property
    def adapter(self) -> Adapter:
        """The method's adapter."""
        return plugins.load_adapter(self.method)

    @property
    def losses(self) -> dict[str, Any] | None:
        """What losses.json holds; None where the run has no synthesis, or is older than the record."""
        file = self.folder.path / LOSSES
        found: dict[str, Any] | None = read_json(file) if file.is_file() else None
        return found

    @property
    def terms(self) -> dict[str, Any]:
        """The arm's regularizers with their settings."""
        found: dict[str, Any] = self.recipe.get("arms", {}).get(self.arm, {}).get("regularizers", {})
        return found

    @property
    def counted(self) -> dict[str, Any]:
        """What of the recipe, with the arm's terms, changes this run's results."""
        return counted(self.recipe, arm=self.arm, regularizers=self.terms)

    def class_name(self, label: int) -> str:
        """Return the name of a class; runs older than the record of names have its number alone."""
        names = self.provenance.get("classes", [])
        return str(names[label]) if label < len(names) else f"class {label}"


def read_run(run: RunFolder | FinishedRun) -> ReportRun:
    """Read a finished run from its folder.

    Raises:
        DirePlugError: it isn't finished, or a file of it is missing or damaged.
    """
    folder = run.folder if isinstance(run, FinishedRun) else run
    if (state := folder.state()) != "finished":
        raise DirePlugError(
            f"{folder.path}: this run is {state}, and a report is made of finished ones; run its command again, "
            "and it goes on from there"
        )
    recipe, provenance = folder.path / "recipe.yaml", folder.path / "provenance.json"
    if not recipe.is_file():
        raise DirePlugError(f"{recipe}: missing, so the run's settings aren't known; remove the folder to run again")
    return ReportRun(folder, folder.metrics(), read_yaml(recipe), read_json(provenance))


def find_runs(names: Sequence[str], root: Path) -> list[ReportRun]:
    """Return the runs that names stand for, each once: folders, parts of a name, or a comparison's file or folder.

    Raises:
        DirePlugError: a name stands for none or for several runs, or one isn't finished.
    """
    folders = [folder for name in names for folder in _resolve(name, root)]
    unique = {folder.path.resolve(): folder for folder in folders}
    return [read_run(folder) for folder in unique.values()]


def find_comparison(name: str, root: Path) -> Path | None:
    """Return the compare.json that a name stands for: its path, that of its folder, or the folder's name."""
    for path in (Path(name), Path(name) / COMPARISON):
        if path.is_file() and path.suffix == ".json":
            return path.absolute()
    found = sorted(root.glob(f"*/*/{Path(name).name}/{COMPARISON}")) if name.startswith("compare-") else []
    return found[0] if len(found) == 1 else None


def _resolve(name: str, root: Path) -> Iterable[RunFolder]:
    path = find_comparison(name, root)
    return [find_run(root, name)] if path is None else _compared(path)


def _compared(path: Path) -> list[RunFolder]:
    """Return the runs of a comparison, which lie beside its folder."""
    content = read_json(path)
    try:
        runs = [run for arm in content["arms"].values() for run in arm["runs"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise DirePlugError(f"{path}: not a comparison of ours; give a run, or what `compare` stored") from error
    folders = [RunFolder(path.parent.parent / run) for run in runs]
    for folder in folders:
        if not folder.path.is_dir():
            raise DirePlugError(f"{path}: its run {folder.path} isn't there any more; run the comparison again")
    return folders
