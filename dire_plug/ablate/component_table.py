"""The seven combinations as they are shown and stored."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from dire_plug.ablate.components import CONTROL, PAPER, Components, normalised_columns, table_measures
from dire_plug.ablate.trials import Trial
from dire_plug.results.statistics import ACCURACY, FEW, paired_difference
from dire_plug.results.table import SPACES, format_difference, format_summary
from dire_plug.tables import Table

TITLES = {"vendi": "Ven ↑", "similarity": "Sim ↓", "coverage": "Cov ↑"}
"""Table 14's own names and arrows."""


def render_components(components: Components) -> RenderableType:
    """Return the tables of accuracy and of diversity in T and I, normalised too, with the paper's figures beside."""
    title = (
        f"{components.method} · {components.recipe} · IPC {components.ipc} · engine {components.engine} · "
        "components of DiRe"
    )
    parts: list[RenderableType] = [Text(title, style="bold"), _accuracy_table(components)]
    parts += [_diversity_table(components, space) for space in SPACES]
    return Group(*parts, *(Text(f"  {line}", style="dim") for line in component_notes(components)))


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
        table.add_row(name, *cells, *(f"{value:.2f}" for value in PAPER.get(name, ())[:3]))
    return table


def component_notes(components: Components) -> list[str]:
    """Return the lines below the tables."""
    lines = [
        *spread_notes(len(components.seeds)),
        "control: the same plan, start and learning rate without the term",
        "0…1: (x − least) / (greatest − least) over the seven rows, so a scale says nothing of how far apart they are; "
        "control on the same scale",
        "paper's: Table 14, Tiny-ImageNet, IPC 10; whichever the data here, it is that",
        "tested on the test set, and nothing is chosen by it: choose a setting by the sweep",
    ]
    if _judged(components.control) == "validation":
        lines[-1] = "tested on the recipe's validation images, not on the test set"
    return lines + [f"{name}: {trial.trouble}" for name, trial in components.trials.items() if trial.trouble]


def spread_notes(n: int) -> list[str]:
    """Return what the figures after ± are, for `n` syntheses of each setting."""
    if n == 1:
        return ["one synthesis of each setting: no spread; --seeds 5 gives one"]
    lines = [
        f"mean ± standard deviation over {n} syntheses of each setting",
        "differences: paired by seed, ± half of the 95 % interval of the paired t test",
    ]
    return [*lines, f"n = {n}: below {FEW} pairs the interval says little"] if n < FEW else lines


def components_json(components: Components) -> dict[str, Any]:
    """Return what ablate.json holds of the combinations: every value of every run, and the statistics."""
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
    """Return a trial's setting, runs, trouble, values by seed and their summaries."""
    named = {"accuracy": ACCURACY[0]}
    for space in SPACES:
        named |= {f"{space}/{key}": measure for key, measure in table_measures(space).items()}
    summaries = {key: trial.summary(measure) for key, measure in named.items()}
    return {
        "arm": trial.setting.arm,
        "changes": list(trial.setting.changes),
        "runs": [run.folder.path.name for run in trial.runs],
        "same_as": trial.same_as,
        "trouble": trial.trouble,
        "values": {key: trial.column(measure) for key, measure in named.items()},
        "summary": {key: None if summary is None else vars(summary) for key, summary in summaries.items()},
    }


def _judged(trial: Trial) -> str:
    return str(trial.runs[0].metrics.get("judged", "test"))


def _format(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
