"""Regularizers: terms that a plugin adds to a synthesis loss. Importing the package imports no torch."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dire_plug.regularizers.diversity import MemoryBank, PreparedReal, diversity_loss, prepare_real

__all__ = ["MemoryBank", "PreparedReal", "diversity_loss", "prepare_real"]


def __getattr__(name: str) -> Any:
    """Import the mathematics when one of its public names is first asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dire_plug.regularizers import diversity

    return getattr(diversity, name)
