"""Regularizers: terms that a plugin adds to a synthesis loss. Importing the package imports no torch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dire_plug.regularizers.bank import MemoryBank
    from dire_plug.regularizers.diversity import diversity_loss
    from dire_plug.regularizers.real import PreparedReal, prepare_real

__all__ = ["MemoryBank", "PreparedReal", "diversity_loss", "prepare_real"]

_MODULES = {"MemoryBank": "bank", "PreparedReal": "real", "diversity_loss": "diversity", "prepare_real": "real"}


def __getattr__(name: str) -> Any:
    """Import the mathematics when one of its public names is first asked for."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
