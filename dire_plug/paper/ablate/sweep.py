"""Sweep settings one at a time around the recipe's own, ranked on validation images; then test the best once.

Everything here holds the same validation images out of the training set. Settings are judged on those, with the seeds
s … s + n − 1; the test set isn't used. Then the best setting, the recipe's own, their controls and the baseline are
run with the seeds s + n … s + 2n − 1 and judged on the test set. They keep the smaller training set, so that networks
and real embeddings are those that the setting was chosen with; and new seeds, so that no lucky synthesis comes along.

One axis at a time, not their product: the default grids alone would make 4·3·3·2·2·2 = 288 settings, of which the best
on a few hundred validation images would be the luckiest. Interactions of two settings are not tested.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from dire_plug import ui
from dire_plug.data import default_count
from dire_plug.errors import DirePlugError, nearest
from dire_plug.executors.dispatch import Runner
from dire_plug.paper.ablate.trials import TERM, Setting, Trial, last_line, require_term, run_settings
from dire_plug.pipeline import Request, Run, plan_run
from dire_plug.pipeline.request import count_classes, read_data
from dire_plug.results.arms import equal_arms

DEFAULT = "default"
"""The recipe's own setting, as tables name it."""
FACTORS = {"r_c": (0.3, 3), "r_e": (0.3, 3), "multiplier": (0.1, 0.3, 3)}
"""Default grids, in units of the recipe's own value: a good weight differs 10–30 times between recipes."""
VARIANTS = {"released": ("released", "sum"), "paper-mean": ("paper", "mean"), "paper-sum": ("paper", "sum")}
"""Value of the axis → variant and reduction; weights carry over between the first two, not to the third."""
ORDERS = ("by_class", "as_released")
MOST_PER_CLASS = 10
"""Of a regrouped batch where the recipe keeps upstream's: as in the authors' release."""


def make_grid(request: Request, texts: Sequence[str], *, dry: bool = False) -> tuple[list[Setting], list[str]]:
    """Return the settings to try, the recipe's own first, and "name: why" of those that are left out.

    Args:
        texts: `AXIS=VALUE,VALUE,…`; if empty, every axis has its default grid, and values that the method rejects
            are left out with the reason.
        dry: nothing will be run, so upstream's code isn't needed.

    Raises:
        DirePlugError: an unknown axis, or an invalid value in `texts`.
    """
    own = require_term(request, dry=dry)
    chosen = dict(map(_read, texts)) if texts else {axis: default_values(axis, own) for axis in AXES}
    left_out = [f"{axis}: no default grid here; give one with --grid" for axis, values in chosen.items() if not values]
    planned, settings = {DEFAULT: own}, [Setting(DEFAULT)]
    for axis, value in ((axis, value) for axis, values in chosen.items() for value in values):
        setting = Setting(f"{axis} {value}", changes=AXES[axis](value, own))
        try:
            found = plan_run(setting.of(request, seed=request.seed), dry=dry)
        except DirePlugError as error:
            # what the user named must fail; of the default grid it is left out
            if texts:
                raise DirePlugError(f"--grid {axis}={value}: {error}") from error
            left_out.append(f"{setting.name}: {last_line(error)}")
            continue
        # a value may be the recipe's own, written in another way
        if (other := equal_arms({**planned, setting.name: found}).get(setting.name)) is not None:
            left_out.append(f"{setting.name}: the same as {other}")
            continue
        planned[setting.name] = found
        settings.append(setting)
    return settings, left_out


def control_of(setting: Setting) -> Setting:
    """Return the same setting without its term."""
    return replace(setting, name=f"control of {setting.name}", arm="control")


def default_values(axis: str, own: Run) -> list[str]:
    """Return the default grid of one axis, without the recipe's own value; empty where there is none.

    Weights: `FACTORS`. plan, variant, real.order: the other one; none for the printed sums, whose weights fit nothing
    else.
    """
    recipe, term = own.resolved.recipe, own.resolved.regularizers[TERM]
    if axis in FACTORS:
        return [f"{factor * term[axis]:.4g}" for factor in FACTORS[axis]] if term[axis] else []
    if axis == "plan":
        return [str(min(recipe.ipc, MOST_PER_CLASS))] if recipe.recover.plan == "keep" else ["keep"]
    if axis == "variant":
        ours = (term["variant"], term["reduction"])
        return {VARIANTS["released"]: ["paper-mean"], VARIANTS["paper-mean"]: ["released"]}.get(ours, [])
    return [order for order in ORDERS if order != recipe.real.order]


def _read(text: str) -> tuple[str, list[str]]:
    axis, equals, values = text.partition("=")
    axis, found = axis.strip(), [value.strip() for value in values.split(",") if value.strip()]
    if not equals or not found:
        raise DirePlugError(f"--grid {text}: expected AXIS=VALUE,VALUE…, for example --grid r_c=0.3,1,3")
    if axis not in AXES:
        raise DirePlugError(f"--grid {text}: no axis '{axis}'{nearest(axis, AXES)}; there is {', '.join(AXES)}")
    return axis, found


def _weight(name: str) -> Change:
    # the recipe's model checks the value
    return lambda value, own: (f"regularizers.{TERM}.{name}={value}",)


def _plan(value: str, own: Run) -> tuple[str, ...]:
    if value == "keep":
        return ("recover.plan=keep",)
    if not value.isdecimal():
        raise DirePlugError(f"--grid plan={value}: expected keep, or how many images of a class share a batch")
    return (f"recover.plan={{per_class: {value}}}",)


def _variant(value: str, own: Run) -> tuple[str, ...]:
    """Return variant and reduction, with the recipe's own multiplier, whose default differs between the variants."""
    if value not in VARIANTS:
        hint = nearest(value, VARIANTS)
        raise DirePlugError(f"--grid variant={value}: no such variant{hint}; there is {', '.join(VARIANTS)}")
    variant, reduction = VARIANTS[value]
    multiplier = own.resolved.regularizers[TERM]["multiplier"]
    settings = {"variant": variant, "reduction": reduction, "multiplier": multiplier}
    return tuple(f"regularizers.{TERM}.{key}={setting}" for key, setting in settings.items())


def _order(value: str, own: Run) -> tuple[str, ...]:
    return (f"real.order={value}",)


Change = Callable[[str, Run], tuple[str, ...]]
AXES: dict[str, Change] = {
    "r_c": _weight("r_c"),
    "r_e": _weight("r_e"),
    "multiplier": _weight("multiplier"),
    "plan": _plan,
    "variant": _variant,
    "real.order": _order,
}
"""Axis → from a value and the recipe's own plan to `KEY=VALUE` as of `--set`."""


BASELINE, CONTROL, BEST = "baseline", "control", "best"
COLLAPSED = 0.5
"""A setting whose accuracy is below this share of its control's has collapsed, where the control has learned: where it
is better than twice chance."""


@dataclass(frozen=True)
class Sweep:
    """The trials of a sweep and the test of its best setting.

    Attributes:
        validation: the number of validation images.
        tried: name → trial on validation images, the recipe's own first.
        controls: the same names → the setting without its term; the same runs unless the plan differs.
        left_out: "name: why" of settings that were not tried.
        best: the name of the setting with the highest accuracy on validation images.
        final: the test of baseline, control, default, best and, where the plan differs, the best's own control.
        final_controls: default and best → the name of the control in `final`.
    """

    method: str
    recipe: str
    ipc: int
    engine: str
    seeds: tuple[int, ...]
    validation: int
    tried: dict[str, Trial]
    controls: dict[str, Trial]
    left_out: list[str]
    best: str
    final_seeds: tuple[int, ...]
    final: dict[str, Trial]
    final_controls: dict[str, str]


def sweep(request: Request, seeds: int, *, grid: Sequence[str] = (), runner: Runner | None = None) -> Sweep:
    """Try settings on validation images, and test the best; finished runs are reused.

    Args:
        seeds: syntheses of each setting.
        grid: see `make_grid`.
        runner: runs them; None does so in this process.

    Raises:
        DirePlugError: the recipe has no DiRe, a value isn't valid, the control or the recipe's own setting failed, or
            the recipe's protocol gives no accuracy to choose by.
    """
    runner = runner or Runner()
    planned = require_term(request)
    count = count_validation(planned)
    numbers = tuple(range(request.seed, request.seed + seeds))
    held_out, judged = hold_out_images(request, count)
    settings, left_out = make_grid(judged, grid)
    tried, controls = _try(judged, settings, seeds=numbers, chance=_chance(planned), runner=runner)
    best = choose(tried)
    ui.say(f"best on validation images: {best}; now the test")
    last, final_controls = final_settings(tried[best], controls[best])
    # seeds of which none chose the setting
    later = tuple(number + seeds for number in numbers)
    final = run_settings(held_out, last, seeds=later, needed=(BASELINE, CONTROL, DEFAULT), runner=runner)
    return Sweep(
        method=request.method,
        recipe=planned.recipe.name,
        ipc=planned.resolved.recipe.ipc,
        engine=planned.engine,
        seeds=numbers,
        validation=count,
        tried=tried,
        controls=controls,
        left_out=left_out,
        best=best,
        final_seeds=later,
        final=final,
        final_controls=final_controls,
    )


def count_validation(planned: Run) -> int:
    """Return how many images are held out: as the recipe or `--set dataset.validation` says, else by the default."""
    asked = planned.resolved.recipe.dataset.validation
    return default_count(read_data(planned)) if asked is None else asked


def choose(tried: dict[str, Trial]) -> str:
    """Return the name of the setting with the highest mean accuracy, the earlier one of equals.

    Raises:
        DirePlugError: none has an accuracy.
    """
    known = {name: trial.accuracy for name, trial in tried.items() if trial.problem is None}
    accuracies = {name: accuracy for name, accuracy in known.items() if accuracy is not None}
    if not accuracies:
        raise DirePlugError("no setting has an accuracy to choose by; see the warnings above")
    return max(accuracies, key=lambda name: accuracies[name])


def final_settings(best: Trial, control: Trial) -> tuple[list[Setting], dict[str, str]]:
    """Return the settings of the final test, and for default and best the name of the control among them."""
    settings = [Setting(BASELINE, arm="baseline"), Setting(CONTROL, arm="control"), Setting(DEFAULT)]
    controls = {DEFAULT: CONTROL}
    if best.setting.name == DEFAULT:
        return settings, controls
    settings.append(replace(best.setting, name=BEST))
    controls[BEST] = CONTROL
    # only where the plan differs is the control of the best another run
    if control.same_as != CONTROL:
        # beside the other control, as the table has them
        settings.insert(2, replace(control_of(best.setting), name=f"control of {BEST}"))
        controls[BEST] = f"control of {BEST}"
    return settings, controls


def with_settings(request: Request, *settings: str) -> Request:
    """Return the request with more `--set`, which win over its own."""
    return replace(request, settings=(*request.settings, *settings))


def _chance(planned: Run) -> float:
    """Return the accuracy of guessing, in percent."""
    return 100 / count_classes(planned.resolved.recipe)


def hold_out_images(request: Request, count: int) -> tuple[Request, Request]:
    """Return the request with validation images held out, judged on test images, and judged on those."""
    # also for the final test: its students must have learned from the same images
    held_out = with_settings(request, f"dataset.validation={count}", "evaluate.judge=test")
    return held_out, with_settings(held_out, "evaluate.judge=validation")


def sweep_requests(request: Request, seeds: int, *, grid: Sequence[str] = ()) -> list[Request]:
    """Return the requests of all runs by which `sweep` chooses; those of its final test depend on the choice.

    Raises:
        DirePlugError: see `sweep`.
    """
    _, judged = hold_out_images(request, count_validation(require_term(request)))
    settings, _ = make_grid(judged, grid)
    numbers = range(request.seed, request.seed + seeds)
    return [one.of(judged, seed=seed) for one in _with_controls(settings)[0] for seed in numbers]


def _with_controls(settings: Sequence[Setting]) -> tuple[list[Setting], dict[str, Setting]]:
    """Return settings with their controls, in the order in which they run, and the control of each but the first."""
    default, *others = settings
    controls = {setting.name: control_of(setting) for setting in others}
    return [Setting(CONTROL, arm="control"), default, *controls.values(), *others], controls


def _try(
    base: Request, settings: Sequence[Setting], *, seeds: Sequence[int], chance: float, runner: Runner
) -> tuple[dict[str, Trial], dict[str, Trial]]:
    """Run the settings and their controls; mark those that collapsed."""
    ordered, controls = _with_controls(settings)
    trials = run_settings(base, ordered, seeds=seeds, needed=(CONTROL, DEFAULT), runner=runner)
    own = {name: trials[control.name] for name, control in controls.items()} | {DEFAULT: trials[CONTROL]}
    tried = {
        setting.name: mark_collapse(trials[setting.name], own[setting.name], chance=chance) for setting in settings
    }
    return tried, {name: own[name] for name in tried}


def mark_collapse(trial: Trial, control: Trial, *, chance: float) -> Trial:
    """Return the trial, marked where it has collapsed; `chance` is the accuracy of guessing, in percent."""
    ours, theirs = trial.accuracy, control.accuracy
    if trial.problem or ours is None or theirs is None or theirs <= 2 * chance or ours >= COLLAPSED * theirs:
        return trial
    return replace(trial, problem=f"collapsed: {ours:.1f} % accuracy, below half of its control's {theirs:.1f} %")
