"""The settings of a term that a study searches: by default those that its model bounds by 0, around the recipe's own.

A term is scaled by one number: the ratio ρ of `weight: auto`, else the setting `multiplier` where the model has it,
else `weight`. Beside it stand the model's other numbers that 0 bounds, except r_c of DiRe: with the multiplier and r_e
it would be a third number for two weights.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dire_plug import plugins
from dire_plug.errors import DirePlugError, nearest
from dire_plug.paper.ablate.sweep import with_settings
from dire_plug.pipeline import Request, Run, plan_run
from dire_plug.recipe.loading import flatten, parse_yaml, settings_tree
from dire_plug.recipe.weight import KEY as WEIGHT
from dire_plug.recipe.weight import MOST

FACTOR = 10
"""A default range goes from the recipe's own value divided by this to that times this: good weights of two recipes, or
two values of upstream's r_bn, differ by 10 to 30."""
RATIO = f"{WEIGHT}.ratio"
SCALES = (WEIGHT, "multiplier", "r_c")
"""Settings that scale a whole term, or the part of it that the others are measured by."""
PREFIX = "regularizers."

Value = float | str


@dataclass(frozen=True)
class Searched:
    """One setting and where it is searched: a range, or choices as text of YAML.

    Attributes:
        key: dotted, as `--set` takes it.
        low, high: the ends of the range; both 0 where there are choices.
        log: whether values are drawn uniformly in their logarithm.
    """

    key: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    choices: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return the range as `--search` takes it."""
        if self.choices:
            return f"{self.key}={','.join(self.choices)}"
        return f"{self.key}={self.low:g}..{self.high:g}{':log' if self.log else ''}"

    def find(self, value: object) -> Value | None:
        """Return a recipe's value as a trial has it; None where it isn't among those that are searched."""
        if self.choices:
            return next((text for text in self.choices if parse_yaml(text, where=self.key) == value), None)
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return None
        return float(value) if value == round_value(value) else None  # trials are drawn with as many digits

    def probes(self) -> tuple[Value, ...]:
        """Return values that must be valid: all choices, or both ends and one between, which isn't whole."""
        if self.choices:
            return self.choices
        return self.low, self.high, self.at(0.4567)

    def at(self, share: float) -> Value:
        """Return the value at a share of the way from the lower to the upper end, or of the choices."""
        if self.choices:
            return self.choices[int(share * len(self.choices))]
        if self.log:
            return round_value(self.low * (self.high / self.low) ** share)
        return round_value(self.low + (self.high - self.low) * share)


def round_value(value: float) -> float:
    """Return a drawn value with four significant digits: weights need no more, and a recipe is read by people."""
    return float(f"{value:.4g}")


def as_settings(values: Mapping[str, Value]) -> tuple[str, ...]:
    """Return the values of a trial as `--set` takes them."""
    return tuple(f"{key}={value if isinstance(value, str) else repr(value)}" for key, value in values.items())


def short_names(space: Sequence[Searched]) -> dict[str, str]:
    """Return key → its name in tables: without the regularizer where there is only one."""
    terms = {one.key.split(".")[1] for one in space}
    cut = len(PREFIX) if len(terms) > 1 else len(PREFIX) + len(next(iter(terms), "")) + 1
    return {one.key: one.key[cut:] for one in space}


def own_values(space: Sequence[Searched], own: Run) -> dict[str, Value] | None:
    """Return the recipe's own setting as a trial; None where it lies outside of what is searched."""
    known = flatten({"regularizers": own.resolved.regularizers})
    found = {one.key: one.find(known.get(one.key)) for one in space}
    values = {key: value for key, value in found.items() if value is not None}
    return values if len(values) == len(found) else None


def make_space(request: Request, texts: Sequence[str], own: Run) -> tuple[list[Searched], list[str]]:
    """Return what a study searches, and "key: why" of what it leaves out.

    Args:
        request: of the arm; its own `--set` of a setting takes that out of the defaults.
        texts: `KEY`, `KEY=LOW..HIGH`, `KEY=LOW..HIGH:log` or `KEY=VALUE,VALUE`; if empty, the defaults.
        own: the plan of the request.

    Raises:
        DirePlugError: a faulty text, a setting that no regularizer of the arm has, or a value that isn't valid; nothing
            is left to search.
    """
    given = flatten(settings_tree(request.settings))
    defaults = {one.key: one for one in _defaults(own)}
    left_out = [f"{key}: {why}" for key, why in _idle(own)]
    if texts:
        space = [_read(text, own, defaults) for text in texts]
        for one in space:
            if one.key in given:
                raise DirePlugError(
                    f"--search {one} and --set {one.key}=… contradict each other; leave one of them out"
                )
            if [other.key for other in space].count(one.key) > 1:
                raise DirePlugError(f"--search {one.key}: is given twice; give it once")
        left_out = []
    else:
        space = [one for one in defaults.values() if one.key not in given]
        left_out += [f"{key}: --set fixes it" for key in defaults if key in given]
    if not space:
        raise DirePlugError(
            f"arm '{request.arm}': nothing is searched ({'; '.join(left_out)}); name a setting, such as --search "
            f"{PREFIX}{next(iter(own.resolved.regularizers))}.{WEIGHT}=0.1..10:log"
        )
    for one in space:
        _check(one, request)
    return space, left_out


def _check(one: Searched, request: Request) -> None:
    for value in one.probes():
        changed = as_settings({one.key: value})
        try:
            plan_run(with_settings(request, *changed), dry=True)
        except DirePlugError as error:
            raise DirePlugError(f"--search {one}: at {value}: {str(error).splitlines()[-1].strip()}") from error


def _defaults(own: Run) -> Iterator[Searched]:
    """Yield the default ranges of an arm's terms, around their own values."""
    idle = {key for key, _ in _idle(own)}
    for name, settings in own.resolved.regularizers.items():
        weight = settings[WEIGHT]
        for setting in _searchable(name, settings):
            key, value = f"{PREFIX}{name}.{setting}", weight["ratio"] if setting == RATIO else settings[setting]
            if key in idle:
                continue
            high = FACTOR * value
            if setting == RATIO and not weight["force"]:
                high = min(high, MOST)
            yield Searched(key, round_value(value / FACTOR), round_value(high), log=True)


def _searchable(name: str, settings: Mapping[str, Any]) -> list[str]:
    """Return the settings of a term that are searched by default: what scales it, then the others."""
    scale = RATIO if isinstance(settings[WEIGHT], dict) else "multiplier" if "multiplier" in settings else WEIGHT
    fields = plugins.settings_model(name).model_fields
    bounded = [
        key
        for key, field in fields.items()
        if field.annotation is float
        and any(0 in (getattr(b, "ge", None), getattr(b, "gt", None)) for b in field.metadata)
    ]
    return [scale, *(key for key in bounded if key not in SCALES)]


def _idle(own: Run) -> Iterator[tuple[str, str]]:
    """Yield the settings that would be searched but change nothing, or have no range, and why."""
    for name, settings in own.resolved.regularizers.items():
        for setting in _searchable(name, settings):
            key = f"{PREFIX}{name}.{setting}"
            if setting != RATIO and not settings[setting]:
                yield key, "is 0 in the recipe, so it has no default range"
            elif setting == "r_e" and "edm" not in settings.get("components", ("edm",)):
                yield key, "weighs EDM, which is not among the components"
            elif setting == "r_e" and list(settings.get("components", ())) == ["edm"]:
                yield key, "with EDM alone it does what the term's scale does"


def _read(text: str, own: Run, defaults: Mapping[str, Searched]) -> Searched:
    key, equals, rest = (part.strip() for part in text.partition("="))
    _check_key(key, own)
    if not equals:
        if key not in defaults:
            raise DirePlugError(f"--search {text}: has no default range; give one, such as {key}=0.01..1:log")
        return defaults[key]
    ends, colon, kind = rest.partition(":")
    if ".." not in ends:
        choices = tuple(part.strip() for part in re.split(r",(?![^\[]*\])", rest) if part.strip())
        if len(choices) < 2 or len(set(choices)) < len(choices):
            raise DirePlugError(f"--search {text}: expected LOW..HIGH, LOW..HIGH:log, or two different values or more")
        return Searched(key, choices=choices)
    try:
        low, high = map(float, ends.split(".."))
    except ValueError:
        raise DirePlugError(f"--search {text}: '{ends}' is no range of two numbers, such as 0.01..0.3") from None
    if (colon and kind != "log") or not (-math.inf < low < high < math.inf):
        raise DirePlugError(f"--search {text}: expected LOW..HIGH or LOW..HIGH:log, with LOW below HIGH")
    if kind == "log" and low <= 0:
        raise DirePlugError(f"--search {text}: a logarithm needs LOW above 0")
    return Searched(key, low, high, log=kind == "log")


def _check_key(key: str, own: Run) -> None:
    """Raise for a key that is no setting of a term: another plan or flag would need another control."""
    known = _known_keys(own.resolved.regularizers)
    if key not in known:
        raise DirePlugError(
            f"--search {key}: arm '{own.arm}' has no such setting of a regularizer{nearest(key, known)}; it has "
            f"{', '.join(known)}. Other keys of the recipe would change the control too"
        )


def _known_keys(terms: Mapping[str, Mapping[str, Any]]) -> Collection[str]:
    found = {
        f"{PREFIX}{name}.{setting}": None for name in terms for setting in plugins.settings_model(name).model_fields
    }
    return [*found, *(f"{PREFIX}{name}.{RATIO}" for name in terms)]
