"""Regularizers: plugins that add a term to a synthesis loss. Importing the package imports no torch."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dire_plug.regularizers.diversity import diversity_loss

__all__ = ["diversity_loss"]


def __getattr__(name: str) -> Any:
    """Import the mathematics of DiRe when it is first asked for."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from dire_plug.regularizers.diversity import diversity_loss

    return diversity_loss
