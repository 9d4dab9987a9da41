"""Find the runs of a report by name, and read them from their folders; damaged files are named."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dire_plug import plugins
from dire_plug.errors import DirePlugError
from dire_plug.files import read_json
from dire_plug.recipe import counted, read_yaml
from dire_plug.store.runs import COMPARISON, LOSSES, FinishedRun, RunFolder, find_comparisons, find_run, show_engine
from dire_plug.types import Adapter

ADVICE = "remove the folder of this run and run its command again, which takes from the store what is there"

# The parts of a run's files that a report reads. They only check: a report then uses the files' own content.


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")  # a number in quotes is damage; other keys don't matter here


class _Named(_Part):
    name: str


class _Evaluate(_Part):
    source: str
    protocol: str
    epochs: int


class _Squeeze(_Part):
    labeller: dict[str, Any] | None = None


class _Recover(_Part):
    script: str


class _Arm(_Part):
    regularizers: dict[str, Any] = {}


class RecipeFile(_Part):
    """recipe.yaml, as far as a report reads it."""

    method: str
    name: str
    dataset: _Named
    evaluate: _Evaluate
    squeeze: _Squeeze
    recover: _Recover
    arms: dict[str, _Arm] = {}


class _Student(_Part):
    last: list[float]
    best: list[float] | None


class _Budget(_Part):
    images: int
    epochs: int
    steps: int
    subset_steps: int


class _Accuracy(_Part):
    students: dict[str, _Student] = {}
    full: _Budget | None = None


class _Measures(_Part):
    coverage: float | None = None
    class_coverage: float | None = None
    vendi: float | None = None
    class_vendi: float | None = None
    similarity: float | None = None


class _Space(_Measures):
    real: _Measures


class _Diversity(_Part):
    T: _Space
    I: _Space  # noqa: E741 (the key in the file)


class _Seconds(_Part):
    seconds: float | None


class _Networks(_Part):
    __pydantic_extra__: dict[str, str]  # by this pydantic checks the values of further keys
    teacher: str


class MetricsFile(_Part):
    """metrics.json, as far as a report reads it."""

    arm: str
    seed: int
    engine: str
    ipc: int
    networks: _Networks
    accuracy: _Accuracy
    diversity: _Diversity
    recover: _Seconds | None = None


class _Hardware(_Part):
    threads: int
    card: str | None
    processor: str


class _Code(_Part):
    commit: str | None
    changed: bool | None


class _Session(_Part):
    command: list[str]
    versions: dict[str, str]
    hardware: _Hardware
    code: _Code


class _Upstream(_Part):
    repository: str


class ProvenanceFile(_Part):
    """provenance.json, as far as a report reads it."""

    commit: str | None
    patch: str | None
    dataset: str
    upstream: _Upstream
    classes: Annotated[list[str], Field(min_length=1)]
    sessions: Annotated[list[_Session], Field(min_length=1)]


class _Slot(_Part):
    values: dict[str, list[float | None]]


class LossesFile(_Part):
    """losses.json: the curves have a value for each step."""

    steps: Annotated[list[int], Field(min_length=1)]
    slots_run: int
    mean: dict[str, list[float | None]]
    slots: list[_Slot]

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        curves = [*self.mean.values(), *(values for slot in self.slots for values in slot.values.values())]
        if any(len(curve) != len(self.steps) for curve in curves):
            raise ValueError("a curve hasn't as many values as there are steps")
        return self


class PlanFile(_Part):
    """plan.json, as far as a report reads it."""

    ipc: int


def read_file(path: Path, shape: type[BaseModel]) -> dict[str, Any]:
    """Read one file of a run and check the parts that a report reads.

    Raises:
        DirePlugError: the file is missing or damaged; the message has its path and what to do.
    """
    try:
        content: dict[str, Any] = read_yaml(path) if path.suffix == ".yaml" else read_json(path)
    except DirePlugError as error:
        raise DirePlugError(f"{error}; {ADVICE}") from error
    try:
        shape.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]  # one is enough to name: the whole file is doubtful
        where = ".".join(map(str, first["loc"])) or "the file"
        raise DirePlugError(f"{path}: damaged: {where}: {first['msg']}; {ADVICE}") from error
    return content


@dataclass(frozen=True)
class ReportRun:
    """One finished run as a report reads it.

    Attributes:
        folder: where it lies.
        metrics, recipe, provenance: the content of its metrics.json, recipe.yaml and provenance.json.
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
        """The engine of the synthesis, with the components of `--accelerate fast`; `none` for real images."""
        return show_engine(str(self.metrics["engine"]), self.metrics.get("accelerate", {}).get("synthesis", ()))

    @property
    def ipc(self) -> int:
        """The recipe's images per class."""
        return int(self.metrics["ipc"])

    @property
    def dataset(self) -> str:
        """The dataset's name with its size, where the recipe sets one."""
        section = self.recipe["dataset"]
        size, path = section.get("size"), section.get("path")
        name = f"{section['name']} {Path(path).name}" if path else str(section["name"])
        return f"{name} at {size}×{size}" if size else name

    @property
    def adapter(self) -> Adapter:
        """The method's adapter."""
        return plugins.load_adapter(self.method)

    @property
    def is_judged(self) -> bool:
        """Whether it is one of `compare-methods`, whose students have one protocol whatever the method."""
        return self.recipe["squeeze"].get("labeller") is not None

    @property
    def losses(self) -> dict[str, Any] | None:
        """The content of losses.json; None where the run has no synthesis, or is older than the record."""
        file = self.folder.path / LOSSES
        return read_file(file, LossesFile) if file.is_file() else None

    @property
    def terms(self) -> dict[str, Any]:
        """The arm's regularizers with their settings."""
        found: dict[str, Any] = self.recipe.get("arms", {}).get(self.arm, {}).get("regularizers", {})
        return found

    @property
    def counted(self) -> dict[str, Any]:
        """The part of the recipe, with the arm's terms, that changes this run's results."""
        return counted(self.recipe, arm=self.arm, regularizers=self.terms)

    def class_name(self, label: int) -> str:
        """Return the name of a class; its number where it has none."""
        names: list[str] = self.provenance["classes"]
        return names[label] if label < len(names) else f"class {label}"


def read_run(run: RunFolder | FinishedRun) -> ReportRun:
    """Read a finished run from its folder.

    Raises:
        DirePlugError: it isn't finished, or a file of it is missing or damaged.
    """
    folder = run.folder if isinstance(run, FinishedRun) else run
    if (state := folder.state()) != "finished":
        raise DirePlugError(
            f"{folder.path}: this run is {state}, and a report is made of finished ones; run its command again to "
            "resume it"
        )
    return ReportRun(
        folder,
        metrics=read_file(folder.path / "metrics.json", MetricsFile),
        recipe=read_file(folder.path / "recipe.yaml", RecipeFile),
        provenance=read_file(folder.path / "provenance.json", ProvenanceFile),
    )


def find_runs(names: Sequence[str], root: Path) -> list[ReportRun]:
    """Return the runs that names stand for, each once: folders, parts of a name, or a comparison's file or folder.

    Raises:
        DirePlugError: a name stands for none or for several runs, or one isn't finished.
    """
    folders = [folder for name in names for folder in _resolve(name, root)]
    unique = {folder.path.resolve(): folder for folder in folders}  # one that is named twice, or by a link, counts once
    return [read_run(folder) for folder in unique.values()]


def find_comparison(name: str, root: Path) -> Path | None:
    """Return the compare.json that a name stands for: its path, that of its folder, or the folder's name."""
    for path in (Path(name), Path(name) / COMPARISON):
        if path.is_file() and path.suffix == ".json":
            return path.absolute()
    found = find_comparisons(root, name) if name.startswith("compare") else []
    return found[0] / COMPARISON if len(found) == 1 else None


def is_ladder(names: Sequence[str], root: Path) -> bool:
    """Return whether one of the names stands for a comparison along a ladder."""
    found = [path for name in names if (path := find_comparison(name, root)) is not None]
    return any(read_json(path).get("ladder") for path in found)


def _resolve(name: str, root: Path) -> Iterable[RunFolder]:
    path = find_comparison(name, root)
    return [find_run(root, name)] if path is None else _compared(path)


def _compared(path: Path) -> list[RunFolder]:
    """Return the runs of a comparison, which lie beside its folder."""
    content = read_json(path)
    try:
        folders = [RunFolder(path.parent.parent / run) for arm in content["arms"].values() for run in arm["runs"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise DirePlugError(
            f"{path}: holds no comparison; run `dire-plug compare` again, or name the runs themselves"
        ) from error
    for folder in folders:
        if not folder.path.is_dir():
            raise DirePlugError(f"{path}: its run {folder.path} is missing; run the comparison again")
    return folders
