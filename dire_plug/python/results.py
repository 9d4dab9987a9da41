"""Hold what runs, comparisons and measured sets return to Python: values by key, frames, images, figures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from matplotlib.figure import Figure
from rich.console import RenderableType
from torch import Tensor

from dire_plug import ui
from dire_plug.commands.evaluate import render as render_evaluated
from dire_plug.commands.measure import render as render_measured
from dire_plug.commands.tables import run_summary
from dire_plug.errors import DirePlugError
from dire_plug.measures import SPACES, STUDENTS, read_values, run_measures
from dire_plug.python.options import check_choice
from dire_plug.results.comparison import Comparison
from dire_plug.results.figures import FORMATS, save_figure
from dire_plug.results.report.curves import draw_strips
from dire_plug.results.report.images import count_classes
from dire_plug.results.report.runs import ReportRun, read_run
from dire_plug.results.set_export import read_pixels
from dire_plug.results.statistics import summarise
from dire_plug.results.stored import image_folders, images_figure
from dire_plug.results.table import difference, read_column, render
from dire_plug.sets.evaluate import EvaluatedSet
from dire_plug.sets.measure import MeasuredSet
from dire_plug.store.runs import FinishedRun
from dire_plug.table_files import WRITERS, collect, to_html, write_tables

if TYPE_CHECKING:
    import pandas as pd

DPI = 160


class Images(NamedTuple):
    """Condensed images: `pixels, labels, classes = run.images()`.

    Attributes:
        pixels: [n, 3, h, w], uint8, class by class; `.numpy()` makes an array.
        labels: [n], int64.
        classes: the name of each label.
    """

    pixels: Tensor
    labels: Tensor
    classes: tuple[str, ...]


class Shown:
    """What a result shows of itself: the tables of the command line, as text, HTML, or files."""

    def _tables(self) -> RenderableType:
        raise NotImplementedError

    def plot(self) -> Figure:
        """Return a figure."""
        raise NotImplementedError

    def save(self, path: str | Path) -> None:
        """Write the tables (.tex, .csv, .md) or the figure (.png, .svg, .pdf) to a file: its suffix decides.

        Raises:
            DirePlugError: it has another suffix.
        """
        path = Path(path)
        if path.suffix in WRITERS:
            write_tables(collect(self._tables()), path)
        elif path.suffix in FORMATS:
            save_figure(self.plot(), path, dpi=DPI)
        else:
            raise DirePlugError(f"{path}: end its name in one of {', '.join((*WRITERS, *FORMATS))}")

    def __str__(self) -> str:
        """Return the tables as the command line prints them."""
        return ui.to_text(self._tables()).removesuffix("\n")

    def _repr_html_(self) -> str:
        return to_html(collect(self._tables()))


class RunResult(Shown):
    """A finished run: one arm of one recipe with one seed."""

    def __init__(self, run: ReportRun, notes: Iterable[str] = ()) -> None:
        """Take a run that was read from its folder."""
        self._run = run
        self.notes = tuple(notes)

    @classmethod
    def of(cls, finished: FinishedRun) -> Self:
        """Return the result of a run that this process made, or found finished."""
        return cls(read_run(finished), finished.notes)

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self._run.folder.path

    @property
    def labels(self) -> dict[str, Any]:
        """What the run is: method, recipe, arm, seed, ipc, engine, dataset."""
        run = self._run
        return {
            "method": run.method,
            "recipe": str(run.recipe["name"]),
            "arm": run.arm,
            "seed": run.seed,
            "ipc": run.ipc,
            "engine": run.engine,
            "dataset": run.dataset,
        }

    @property
    def metrics(self) -> dict[str, float | None]:
        """Accuracy and diversity by key: see `dire_plug.measures`."""
        return read_values(self._run.metrics)

    @property
    def real_reference(self) -> dict[str, float | None]:
        """The diversity of as many real images, by the same keys."""
        spaces = {space: self._run.metrics["diversity"][space]["real"] for space in SPACES}
        known = tuple(one for one in run_measures() if one.key.endswith(("_teacher", "_independent")))
        return read_values({"diversity": spaces}, known)

    @property
    def details(self) -> dict[str, Any]:
        """The content of metrics.json: also every student's accuracy, and the seconds of the synthesis."""
        return self._run.metrics

    @property
    def losses(self) -> dict[str, Any] | None:
        """The content of losses.json; None where nothing was synthesized."""
        return self._run.losses

    def images(self) -> Images:
        """Return all images that the students learned from, as pixels.

        Raises:
            DirePlugError: the run has none, as that of the arm full, or a file is damaged.
        """
        pixels, labels = read_pixels(self._run)
        return Images(pixels, labels, tuple(map(self._run.class_name, range(count_classes(self._run)))))

    def to_frame(self) -> pd.DataFrame:
        """Return one row: what the run is, and its metrics by key; needs pandas."""
        return _frame([{**self.labels, **self.metrics}], numbers=self.metrics)

    def plot(self) -> Figure:
        """Return a figure of the images, a row a class: at most ten classes, and ten of each.

        Raises:
            DirePlugError: the run has no images, or too many for one file of tensors.
        """
        return _images_figure({self._run.arm: self.path})

    def _tables(self) -> RenderableType:
        return run_summary(FinishedRun(self._run.folder, self._run.metrics, reused=True, notes=self.notes))

    def __repr__(self) -> str:
        """Return what the run is, its accuracy, and its folder, in one line."""
        of, accuracy = self.labels, self.metrics["accuracy_last"]
        reached = "" if accuracy is None else f", accuracy_last {accuracy:.1f}"
        where = f"{of['method']}/{of['recipe']}, IPC {of['ipc']}, {of['arm']}, seed {of['seed']}"
        return f"<RunResult {where}{reached}: {self.path.name}>"


class ComparisonResult(Shown):
    """Arms side by side, paired by seed.

    Attributes:
        path: the folder of compare.json.
    """

    def __init__(self, path: Path, comparison: Comparison) -> None:
        """Take a comparison and the folder in which it is stored."""
        self.path = path
        self._comparison = comparison

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms, in the order of the table."""
        return tuple(self._comparison.runs)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the syntheses."""
        return self._comparison.seeds

    @property
    def runs(self) -> dict[str, list[RunResult]]:
        """Arm → its runs, one a seed; an arm that equals another has that one's."""
        return {arm: [RunResult.of(run) for run in of_arm] for arm, of_arm in self._comparison.runs.items()}

    @property
    def metrics(self) -> dict[str, dict[str, float | None]]:
        """Arm → the means over its syntheses, by key; None where a value is missing."""
        return {arm: {key: mean for key, (mean, _) in of_arm.items()} for arm, of_arm in self._summaries().items()}

    @property
    def differences(self) -> dict[str, dict[str, dict[str, Any] | None]]:
        """Arm with a term → key → arm − control, paired by seed: mean, half_width (of the 95 % interval), n."""
        # a difference of spreads has no meaning
        measures = [measure for measure in run_measures() if measure not in STUDENTS]
        found: dict[str, dict[str, dict[str, Any] | None]] = {}
        for arm in self._comparison.controlled:
            gaps = {measure.key: difference(self._comparison, measure, arm=arm) for measure in measures}
            found[arm] = {key: None if gap is None else dict(vars(gap)) for key, gap in gaps.items()}
        return found

    def images(self, *, seed: int | None = None) -> dict[str, Images]:
        """Return arm → the images of one seed's run, by default the first; without the arm full, which has none."""
        if seed is not None and seed not in self.seeds:
            raise DirePlugError(f"images: there is no seed {seed}; one of {', '.join(map(str, self.seeds))}")
        at = 0 if seed is None else self.seeds.index(seed)
        return {arm: of_arm[at].images() for arm, of_arm in self.runs.items() if (of_arm[at].path / "images").is_dir()}

    def to_frame(self, rows: Literal["runs", "arms", "differences"] = "runs") -> pd.DataFrame:
        """Return a frame, with measures by key; needs pandas.

        Args:
            rows: a row for each run; for each arm, with mean and `…_std` over syntheses; or for each difference from
                control and measure.

        Raises:
            DirePlugError: pandas isn't installed, or there are no such rows.
        """
        if rows == "runs":
            runs = [{**run.labels, "arm": arm, **run.metrics} for arm, of_arm in self.runs.items() for run in of_arm]
            return _frame(runs, numbers=[measure.key for measure in run_measures()])
        if rows == "arms":
            records = []
            for arm, of_arm in self._summaries().items():
                record: dict[str, Any] = {"arm": arm, "n": len(self.seeds)}
                for key, (mean, std) in of_arm.items():
                    record |= {key: mean, f"{key}_std": std}
                records.append(record)
            return _frame(records, numbers=[key for key in records[0] if key not in ("arm", "n")])
        if rows == "differences":
            gaps = [
                {"arm": arm, "measure": key, **gap}
                for arm, of_arm in self.differences.items()
                for key, gap in of_arm.items()
                if gap is not None
            ]
            return import_pandas().DataFrame(gaps, columns=["arm", "measure", "mean", "half_width", "n"])
        raise DirePlugError(f"to_frame: no rows '{rows}'; one of runs, arms, differences")

    def plot(self, what: Literal["measures", "images"] = "measures") -> Figure:
        """Return a figure: a dot for each run by accuracy and coverage, or the first seed's images of each arm.

        Raises:
            DirePlugError: there are no images for one figure.
        """
        check_choice("plot", what, ("measures", "images"))
        return _images_figure(image_folders(self._comparison)) if what == "images" else draw_strips(self._comparison)

    def _summaries(self) -> dict[str, dict[str, tuple[float | None, float | None]]]:
        found: dict[str, dict[str, tuple[float | None, float | None]]] = {}
        for arm in self.arms:
            columns = {one.key: summarise(read_column(self._comparison, arm, one)) for one in run_measures()}
            found[arm] = {key: (None, None) if one is None else (one.mean, one.std) for key, one in columns.items()}
        return found

    def _tables(self) -> RenderableType:
        return render(self._comparison)

    def __repr__(self) -> str:
        """Return what is compared, and the folder, in one line."""
        found, n = self._comparison, len(self.seeds)
        arms = ", ".join(self.arms)
        where = f"{found.method}/{found.recipe}, IPC {found.ipc}, {n} seed{'' if n == 1 else 's'}: {arms}"
        return f"<ComparisonResult {where}: {self.path.name}>"


class SetResult(Shown):
    """The diversity of a condensed set, or the accuracy of students of it.

    Attributes:
        path: the set.
    """

    def __init__(self, found: MeasuredSet | EvaluatedSet, path: Path) -> None:
        """Take what `measure` or `evaluate` found of the set at `path`."""
        self._found = found
        self.path = path

    @property
    def metrics(self) -> Mapping[str, float | None]:
        """The values by key: see `dire_plug.measures`."""
        return self._found.measures

    @property
    def details(self) -> dict[str, Any]:
        """What `--json` writes."""
        return self._found.to_json()

    def to_frame(self) -> pd.DataFrame:
        """Return one row with the metrics by key; of `measure`, a second one of as many real images; needs pandas."""
        rows = [{"set": self._found.condensed["name"], **self.metrics}]
        if isinstance(self._found, MeasuredSet):
            rows.append({"set": "real reference", **self._found.real_reference})
        return import_pandas().DataFrame(rows)

    def plot(self) -> Figure:
        """Raise: one set is no figure."""
        raise DirePlugError("plot: a set by itself is no figure; load_run(…).plot() shows a run's images")

    def _tables(self) -> RenderableType:
        return render_measured(self._found) if isinstance(self._found, MeasuredSet) else render_evaluated(self._found)

    def __repr__(self) -> str:
        """Return the set and its metrics in one line."""
        values = ", ".join(f"{key} {value:.3g}" for key, value in self.metrics.items() if value is not None)
        return f"<SetResult {self._found.condensed['name']}: {values}>"


def _images_figure(folders: Mapping[str, Path]) -> Figure:
    figure = images_figure(folders)
    if figure is None:
        raise DirePlugError("plot: no images, or more than one file of tensors holds; .images() reads all")
    return figure


def _frame(records: list[dict[str, Any]], *, numbers: Iterable[str]) -> pd.DataFrame:
    """Return a frame in which a missing number is NaN."""
    return import_pandas().DataFrame(records).astype(dict.fromkeys(numbers, float))


def import_pandas() -> Any:
    """Return pandas.

    Raises:
        DirePlugError: it isn't installed.
    """
    try:
        import pandas
    except ImportError as error:
        what = "to_frame: pandas isn't installed; get it with: pip install 'dire-plug[notebook]'"
        raise DirePlugError(what) from error
    return pandas
