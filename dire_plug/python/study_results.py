"""Hold what comparisons of methods and searches of settings return to Python."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from matplotlib.figure import Figure
from rich.console import Group, RenderableType

from dire_plug.paper.tune import Tuned, draw_tuned, render_tuned, tuned_json
from dire_plug.paper.tune.space import Value
from dire_plug.python.results import ComparisonResult, Shown, import_pandas
from dire_plug.results.comparison import Comparison
from dire_plug.results.methods import MethodsComparison
from dire_plug.results.methods_table import ONE, OWN, REAL_ROWS, draw_methods, methods_to_json, render

if TYPE_CHECKING:
    import pandas as pd


class MethodsResult(Shown):
    """Methods side by side under one protocol, and by their own.

    Attributes:
        path: the folder of compare-methods.json.
    """

    def __init__(self, path: Path, found: MethodsComparison) -> None:
        """Take a comparison of methods and the folder in which it is stored."""
        self.path = path
        self._found = found

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods, in the order of the table."""
        return tuple(self._found.judged)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the syntheses."""
        return self._found.first.seeds

    @property
    def judged(self) -> dict[str, ComparisonResult]:
        """Method → its arms under the one protocol; with subsets also those of real images, as `real images`."""
        real = {} if self._found.real is None else {REAL_ROWS: self._found.real}
        return self._results({**self._found.judged, **real})

    @property
    def own(self) -> dict[str, ComparisonResult]:
        """Method → its arms by its own protocol; empty where that wasn't asked for."""
        return self._results(self._found.own)

    @property
    def metrics(self) -> dict[str, dict[str, dict[str, float | None]]]:
        """Method → arm → the means over its syntheses under the one protocol, by key."""
        return {name: one.metrics for name, one in self.judged.items()}

    @property
    def details(self) -> dict[str, Any]:
        """The content of compare-methods.json: also the protocol, ranks, and how far they agree."""
        return methods_to_json(self._found)

    def to_frame(self, rows: Literal["runs", "arms", "differences"] = "runs") -> pd.DataFrame:
        """Return the frames of all comparisons as one, behind columns `method` and `protocol` (one, own); needs pandas.

        Args:
            rows: as in `ComparisonResult.to_frame`.

        Raises:
            DirePlugError: pandas isn't installed, or there are no such rows.
        """
        pandas, frames = import_pandas(), []
        for protocol, of_methods in ((ONE, self.judged), (OWN, self.own)):
            for name, comparison in of_methods.items():
                frame = comparison.to_frame(rows).drop(columns="method", errors="ignore")
                frame.insert(0, "method", name)
                frame.insert(1, "protocol", protocol)
                frames.append(frame)
        # of a comparison without differences there is nothing but columns, which have no types
        filled = [frame for frame in frames if not frame.empty] or frames[:1]
        return pandas.concat(filled, ignore_index=True)

    def plot(self) -> Figure:
        """Return a figure: the accuracy of every arm, methods from left to right, a panel a protocol."""
        return draw_methods(self._found)

    def _results(self, comparisons: dict[str, Comparison]) -> dict[str, ComparisonResult]:
        return {name: ComparisonResult(self.path, one) for name, one in comparisons.items()}

    def _tables(self) -> RenderableType:
        return render(self._found)

    def __repr__(self) -> str:
        """Return what is compared, and the folder, in one line."""
        where = f"IPC {self._found.first.ipc}, protocol {self._found.protocol.recipe}: {', '.join(self.methods)}"
        return f"<MethodsResult {where}: {self.path.name}>"


class StudyResult(Shown):
    """A finished search of settings on validation images, and the test of its best.

    Attributes:
        path: the folder of tune.json.
        test: control and the best setting on the test set, with other seeds than the trials'.
    """

    def __init__(self, tuned: Tuned, compared: Path) -> None:
        """Take a study, and the folder in which the comparison on the test set is stored."""
        self._tuned = tuned
        self.path = tuned.folder
        self.test = ComparisonResult(compared, tuned.tested)

    @property
    def best(self) -> dict[str, Value]:
        """The settings of the best trial, key → value."""
        return dict(self._tuned.best.values)

    @property
    def file(self) -> Path:
        """The recipe with the best setting as a preset."""
        return self._tuned.file

    @property
    def preset(self) -> str:
        """The name of that preset."""
        return self._tuned.preset

    @property
    def metrics(self) -> dict[str, dict[str, float | None]]:
        """Arm → the means on the test set over its syntheses, by key."""
        return self.test.metrics

    @property
    def details(self) -> dict[str, Any]:
        """The content of tune.json."""
        return tuned_json(self._tuned)

    def to_frame(self) -> pd.DataFrame:
        """Return a row a trial: number, state, its settings by key, and accuracies on validation images; needs pandas.

        Raises:
            DirePlugError: pandas isn't installed.
        """
        rows = [
            {
                "trial": one.number,
                "state": one.state,
                **one.values,
                "first_student": one.first,
                "accuracy_last": one.accuracy,
            }
            for one in self._tuned.trials
        ]
        return import_pandas().DataFrame(rows).astype({"first_student": float, "accuracy_last": float})

    def plot(self) -> Figure:
        """Return a figure: a panel for each setting, the accuracy of the trials over its value."""
        return draw_tuned(self._tuned)

    def _tables(self) -> RenderableType:
        return Group(*render_tuned(self._tuned))

    def __repr__(self) -> str:
        """Return what was searched, how many trials there are, the best of them, and the folder, in one line."""
        plan, best = self._tuned.plan, self._tuned.best
        where = f"{plan.method}/{plan.recipe}, IPC {plan.ipc}, {plan.arm}"
        return f"<StudyResult {where}: best of {len(self._tuned.trials)} is trial {best.number}: {self.path.name}>"
