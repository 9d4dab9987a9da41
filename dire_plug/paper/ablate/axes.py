"""Define the axes of the sweep, and the settings that differ from the recipe's own along one of them.

One at a time, not their product: the default grids alone would make 4·3·3·2·2·2 = 288 settings, of which the best on a
few hundred validation images would be the luckiest. Interactions of two settings are not tested.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from dire_plug.errors import DirePlugError, nearest
from dire_plug.paper.ablate.trials import TERM, Setting, last_line, require_term
from dire_plug.pipeline import Request, Run, plan_run
from dire_plug.results.comparison import equal_arms

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
