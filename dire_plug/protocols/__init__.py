"""How students are trained on condensed images, by the name that a recipe gives."""

from typing import get_args

from dire_plug.errors import DirePlugError, nearest
from dire_plug.recipe.evaluate import Evaluate

PROTOCOLS: tuple[str, ...] = tuple(
    name
    for section in get_args(get_args(Evaluate)[0])
    for name in get_args(section.model_fields["protocol"].annotation)
)
"""Those for which a recipe has a section; `published` says what each does."""


def check_protocol(name: str) -> None:
    """Raise for an unknown protocol.

    Raises:
        DirePlugError: there is no such protocol.
    """
    if name not in PROTOCOLS:
        hint, known = nearest(name, PROTOCOLS), ", ".join(PROTOCOLS)
        raise DirePlugError(f"evaluate.protocol: no protocol is named '{name}'{hint}; one of {known}")
