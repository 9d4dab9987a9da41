"""How students are trained on condensed images, by the name that a recipe gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from importlib import import_module
from typing import TYPE_CHECKING, Any

from dire_plug.errors import DirePlugError, nearest

if TYPE_CHECKING:
    from dire_plug.protocols.students import StudentResult

MODULES = {
    "on-the-fly": ("on_the_fly", "OnTheFly"),
    "hard-labels": ("hard_labels", "HardLabels"),
    "static-labels": ("mean_labels", "MeanLabels"),
    "dynamic-labels": ("mean_labels", "MeanLabels"),
    "ensemble-labels": ("ensemble_labels", "EnsembleLabels"),
    "delt": ("delt", "Delt"),
    "sre2l-tiny": ("tiny", "Tiny"),
    "dwa-tiny": ("tiny", "Tiny"),
    "fkd": ("fkd", "Fkd"),
    "fkd-ensemble": ("fkd", "FkdEnsemble"),
}
"""Protocol → the module of this package that trains its students, and the dataclass of its numbers there."""
PROTOCOLS = tuple(MODULES)


def protocol(name: str) -> Callable[..., StudentResult]:
    """Return the function that trains one student under protocol `name`: student, teachers, data, settings, place.

    Raises:
        DirePlugError: there is no such protocol.
    """
    check_protocol(name)
    module, _ = MODULES[name]
    train_student: Callable[..., StudentResult] = import_module(f"{__name__}.{module}").train_student
    return train_student


def settings_of(name: str, values: Mapping[str, Any]) -> Any:
    """Return the numbers of protocol `name` out of `values`, which may hold more."""
    module, kind = MODULES[name]
    settings = getattr(import_module(f"{__name__}.{module}"), kind)
    return settings(**{field.name: values[field.name] for field in fields(settings)})


def check_protocol(name: str) -> None:
    """Refuse a protocol that there isn't."""
    if name not in PROTOCOLS:
        hint, known = nearest(name, PROTOCOLS), ", ".join(PROTOCOLS)
        raise DirePlugError(f"evaluate.protocol: no protocol is named '{name}'{hint}; one of {known}")
