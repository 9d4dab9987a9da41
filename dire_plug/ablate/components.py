"""The seven combinations of CD, CDM and EDM with the control beside them: Table 14.

The paper gives Vendi, similarity and coverage "normalized". Each printed column has one 0.00 and one 1.00, so x becomes
(x − least) / (greatest − least) over the seven rows. Similarity isn't turned round: its 0.00 stands at CD, the part
that makes images of a class unlike each other, so 0 is the least similar, and the best.

Nothing is chosen here, so students are tested as the recipe says, on the test set, and the runs are those of `compare`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dire_plug.ablate.trials import TERM, Setting, Trial, require_term, run_settings
from dire_plug.pipeline import Request
from dire_plug.results.statistics import Measure, diversity_measures

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


def ablate_components(request: Request, seeds: int) -> Components:
    """Run the seven combinations and the control, each with `seeds` seeds from the request's own on.

    A combination that fails is kept with its reason.

    Raises:
        DirePlugError: the recipe has no DiRe in its arm `dire`, or the control failed.
    """
    planned = require_term(request)
    numbers = tuple(range(request.seed, request.seed + seeds))
    trials = run_settings(request, component_settings(), seeds=numbers, needed=(CONTROL,))
    return Components(
        method=request.method,
        recipe=planned.source.stem,
        ipc=planned.resolved.recipe.ipc,
        seeds=numbers,
        engine=planned.engine,
        control=trials.pop(CONTROL),
        trials=trials,
    )


def table_measures(space: str) -> dict[str, Measure]:
    """Return the columns of Table 14, in its order, by their key in metrics.json; `space` is T or I."""
    coverage, _, vendi, _, similarity = diversity_measures(space)
    return {"vendi": vendi, "similarity": similarity, "coverage": coverage}


def normalise(values: Sequence[float | None]) -> list[float | None]:
    """Return (x − least) / (greatest − least); None where a value is missing, everywhere where all are equal."""
    known = [value for value in values if value is not None]
    if not known or max(known) == min(known):
        return [None for _ in values]
    return [None if value is None else _place(value, known) for value in values]


def normalised_columns(components: Components, space: str) -> dict[str, dict[str, float | None]]:
    """Return measure → row → its mean on the scale of the seven rows; the control's may lie outside 0 … 1."""
    columns = {}
    for key, measure in table_measures(space).items():
        means = {name: _mean(trial, measure) for name, trial in components.trials.items()}
        column = dict(zip(means, normalise(list(means.values())), strict=True))
        control, known = _mean(components.control, measure), [mean for mean in means.values() if mean is not None]
        spread = known and max(known) > min(known)
        columns[key] = {CONTROL: _place(control, known) if spread and control is not None else None, **column}
    return columns


def _place(value: float, known: Sequence[float]) -> float:
    return (value - min(known)) / (max(known) - min(known))


def _mean(trial: Trial, measure: Measure) -> float | None:
    found = trial.summary(measure)
    return None if found is None else found.mean
