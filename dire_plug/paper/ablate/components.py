"""Ablate the seven combinations of CD, CDM and EDM against the control: Table 14.

The paper gives Vendi, similarity and coverage "normalized". Each printed column has one 0.00 and one 1.00, so x becomes
(x − least) / (greatest − least) over the seven rows. Similarity isn't inverted: its 0.00 stands at CD, the component
that makes images of a class unlike each other, so 0 is the least similar, and the best.

Nothing is chosen here, so students are tested as the recipe says, on the test set, and the runs are those of `compare`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import RenderableType

from dire_plug.executors.dispatch import Runner
from dire_plug.measures import ACCURACY, SPACES, Measure, diversity_measures
from dire_plug.paper.ablate.trials import TERM, Setting, Trial, require_term, run_settings
from dire_plug.pipeline import Request
from dire_plug.results.statistics import FEW, paired_difference
from dire_plug.results.table import FEW_PAIRS, format_difference, format_summary
from dire_plug.tables import Table, with_notes

CONTROL = "control"
COMBINATIONS: dict[str, tuple[str, ...]] = {
    "CD": ("cd",),
    "CDM": ("cdm",),
    "EDM": ("edm",),
    "CD + CDM": ("cd", "cdm"),
    "CD + EDM": ("cd", "edm"),
    "CDM + EDM": ("cdm", "edm"),
    "CD + CDM + EDM": ("cd", "cdm", "edm"),
}
"""The rows of Table 14, in its order."""
PAPER: dict[str, tuple[float, float, float, str]] = {
    "CD": (0.50, 0.00, 0.41, "33.8 ± 0.4"),
    "CDM": (0.74, 0.30, 0.46, "33.8 ± 0.2"),
    "EDM": (0.00, 0.98, 1.00, "34.2 ± 0.3"),
    "CD + CDM": (0.48, 0.17, 0.00, "34.1 ± 0.6"),
    "CD + EDM": (0.40, 0.93, 0.01, "33.6 ± 0.1"),
    "CDM + EDM": (0.36, 1.00, 0.92, "33.6 ± 0.5"),
    "CD + CDM + EDM": (1.00, 0.07, 0.80, "34.7 ± 0.3"),
}
"""Table 14 as printed: Vendi, similarity and coverage, normalised, and accuracy; Tiny-ImageNet, IPC 10."""


@dataclass(frozen=True)
class Components:
    """The finished trials of the seven combinations, by their name in Table 14, and of the control."""

    method: str
    recipe: str
    ipc: int
    seeds: tuple[int, ...]
    engine: str
    control: Trial
    trials: dict[str, Trial]


def component_settings() -> list[Setting]:
    """Return the control and the seven combinations."""
    rows = [
        Setting(name, changes=(f"regularizers.{TERM}.components=[{', '.join(parts)}]",))
        for name, parts in COMBINATIONS.items()
    ]
    return [Setting(CONTROL, arm="control"), *rows]


def ablate_components(request: Request, seeds: int, *, runner: Runner | None = None) -> Components:
    """Run the seven combinations and the control, each with `seeds` seeds from the request's own on.

    A combination that fails is kept with its reason.

    Args:
        runner: runs them; None does so in this process.

    Raises:
        DirePlugError: the recipe has no DiRe in its arm `dire`, or the control failed.
    """
    planned = require_term(request)
    numbers = tuple(range(request.seed, request.seed + seeds))
    trials = run_settings(request, component_settings(), seeds=numbers, needed=(CONTROL,), runner=runner or Runner())
    return Components(
        method=request.method,
        recipe=planned.recipe.name,
        ipc=planned.resolved.recipe.ipc,
        seeds=numbers,
        engine=planned.engine,
        control=trials.pop(CONTROL),
        trials=trials,
    )


def table_measures(space: str) -> dict[str, Measure]:
    """Return the columns of Table 14, in its order, by their key in metrics.json; `space` is T or I."""
    # over all classes; the two left out are the means of the classes
    coverage, _, vendi, _, similarity = diversity_measures(space)
    return {"vendi": vendi, "similarity": similarity, "coverage": coverage}


def normalise(values: Sequence[float | None]) -> list[float | None]:
    """Return (x − least) / (greatest − least); None where a value is missing, everywhere where all are equal."""
    known = [value for value in values if value is not None]
    if not known or max(known) == min(known):
        return [None for _ in values]
    return [None if value is None else _scale(value, known) for value in values]


def normalised_columns(components: Components, space: str) -> dict[str, dict[str, float | None]]:
    """Return measure → row → its mean on the scale of the seven rows; the control's may lie outside 0 … 1."""
    columns = {}
    for key, measure in table_measures(space).items():
        means = {name: _mean(trial, measure) for name, trial in components.trials.items()}
        column = dict(zip(means, normalise(list(means.values())), strict=True))
        control, known = _mean(components.control, measure), [mean for mean in means.values() if mean is not None]
        spread = known and max(known) > min(known)
        # the scale is that of the seven rows, so that it is the paper's
        columns[key] = {CONTROL: _scale(control, known) if spread and control is not None else None, **column}
    return columns


def _scale(value: float, known: Sequence[float]) -> float:
    return (value - min(known)) / (max(known) - min(known))


def _mean(trial: Trial, measure: Measure) -> float | None:
    found = trial.summary(measure)
    return None if found is None else found.mean


# The tables and the JSON file of the seven combinations.


TITLES = {"vendi": "Ven ↑", "similarity": "Sim ↓", "coverage": "Cov ↑"}
"""Table 14's own names and arrows."""


def render_components(components: Components) -> RenderableType:
    """Return the tables of accuracy and of diversity in T and I, normalised too, with the paper's figures beside."""
    title = (
        f"{components.method} · {components.recipe} · IPC {components.ipc} · engine {components.engine} · "
        "components of DiRe"
    )
    tables = [_accuracy_table(components), *(_diversity_table(components, space) for space in SPACES)]
    return with_notes(*tables, title=title, notes=component_notes(components))


def _accuracy_table(components: Components) -> Table:
    table = Table("components", title="accuracy of students")
    table.add_numbers(ACCURACY[0].title, "− control", "paper's")
    own = components.control.column(ACCURACY[0])
    table.add_row(CONTROL, format_summary(components.control.summary(ACCURACY[0]), ACCURACY[0]), "", "")
    for name, trial in components.trials.items():
        gap = paired_difference(trial.column(ACCURACY[0]), own) if trial.runs else None
        accuracy = format_summary(trial.summary(ACCURACY[0]), ACCURACY[0])
        table.add_row(name, accuracy, format_difference(gap, ACCURACY[0]), PAPER[name][3])
    return table


def _diversity_table(components: Components, space: str) -> Table:
    table = Table("components", title=f"diversity in {space}: {SPACES[space]}")
    measures, columns = table_measures(space), normalised_columns(components, space)
    headers = [measure.title for measure in measures.values()] + [f"{TITLES[key]} 0…1" for key in measures]
    table.add_numbers(*headers, *(f"paper's {title}" for title in TITLES.values()))
    for name, trial in {CONTROL: components.control, **components.trials}.items():
        cells = [format_summary(trial.summary(measure), measure) for measure in measures.values()]
        cells += [_format(columns[key][name]) for key in measures]
        table.add_row(name, *cells, *(f"{value:.2f}" for value in PAPER.get(name, ())[:3]))  # the paper has no control
    return table


def component_notes(components: Components) -> list[str]:
    """Return the lines below the tables."""
    lines = [
        *spread_notes(len(components.seeds)),
        "control: the same plan, start and learning rate without the term",
        "0…1: (x − least) / (greatest − least) over the seven rows, which hides how far apart they are; "
        "control on the same scale",
        "paper's: Table 14, Tiny-ImageNet, IPC 10, whatever the data of this run",
        "tested on the test set, so don't choose a setting by it: the sweep chooses on validation images",
    ]
    if _judged(components.control) == "validation":
        lines[-1] = "tested on the recipe's validation images, not on the test set"  # in place of the advice above
    return lines + [f"{name}: {trial.problem}" for name, trial in components.trials.items() if trial.problem]


def spread_notes(n: int) -> list[str]:
    """Return the notes on the figures after ±, for `n` syntheses of each setting."""
    if n == 1:
        return ["one synthesis of each setting: no spread; --seeds 5 gives one"]
    lines = [
        f"mean ± standard deviation over {n} syntheses of each setting",
        "differences: paired by seed, ± half of the 95 % interval of the paired t test",
    ]
    return [*lines, f"n = {n}: {FEW_PAIRS}"] if n < FEW else lines


def components_json(components: Components) -> dict[str, Any]:
    """Return the combinations for ablate.json: every value of every run, and the statistics."""
    columns = {space: normalised_columns(components, space) for space in SPACES}
    own = components.control.column(ACCURACY[0])
    rows = {}
    for name, trial in {CONTROL: components.control, **components.trials}.items():
        gap = paired_difference(trial.column(ACCURACY[0]), own) if trial.runs and name != CONTROL else None
        rows[name] = trial_json(trial) | {
            "normalised": {space: {key: columns[space][key][name] for key in TITLES} for space in SPACES},
            "minus_control": None if gap is None else vars(gap),
            "paper": dict(zip((*TITLES, "accuracy"), PAPER[name], strict=True)) if name in PAPER else None,
        }
    return {
        "method": components.method,
        "recipe": components.recipe,
        "ipc": components.ipc,
        "engine": components.engine,
        "seeds": list(components.seeds),
        "judged": _judged(components.control),
        "rows": rows,
        "notes": component_notes(components),
    }


def trial_json(trial: Trial) -> dict[str, Any]:
    """Return a trial's setting, runs, problem, values by seed and summaries, by the keys of ablate.json."""
    named = {"accuracy": ACCURACY[0]}
    for space in SPACES:
        named |= {f"{space}/{key}": measure for key, measure in table_measures(space).items()}
    summaries = {key: trial.summary(measure) for key, measure in named.items()}
    return {
        "arm": trial.setting.arm,
        "changes": list(trial.setting.changes),
        "runs": [run.folder.path.name for run in trial.runs],
        "same_as": trial.same_as,
        "trouble": trial.problem,
        "values": {key: trial.column(measure) for key, measure in named.items()},
        "summary": {key: None if summary is None else vars(summary) for key, summary in summaries.items()},
    }


def _judged(trial: Trial) -> str:
    return str(trial.runs[0].metrics.get("judged", "test"))


def _format(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
