"""How students are trained on condensed images, by the name that a recipe gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from dire_plug.errors import DirePlugError, NotLandedError, nearest

if TYPE_CHECKING:
    from dire_plug.protocols.on_the_fly import StudentResult

PROTOCOLS = ("on-the-fly",)
PLANNED = ("sre2l-tiny", "fkd")


def protocol(name: str) -> Callable[..., StudentResult]:
    """Return the function that trains one student under protocol `name`.

    Raises:
        NotLandedError: the protocol is planned but not built yet.
        DirePlugError: there is no such protocol.
    """
    if name in PLANNED:
        raise NotLandedError(
            f"evaluate.protocol: '{name}' hasn't landed yet, so no student can be trained here; "
            f"recover and measure of this recipe run. Protocols that work: {', '.join(PROTOCOLS)}"
        )
    check_protocol(name)
    from dire_plug.protocols.on_the_fly import train_student

    return train_student


def check_protocol(name: str) -> None:
    """Refuse a protocol that is neither built nor planned."""
    known = (*PROTOCOLS, *PLANNED)
    if name not in known:
        raise DirePlugError(
            f"evaluate.protocol: no protocol is named '{name}'{nearest(name, known)}; one of {', '.join(PROTOCOLS)}"
        )
