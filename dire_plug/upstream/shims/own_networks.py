"""Build our architectures instead of networks that a module of upstream's own defines.

Needed where a recipe's networks are others than the script builds by `from models import *` (CV-DD
`utils_recover.py` 16, 138-159); `get_model` does that for torchvision's.
"""

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

from torch import nn

from dire_plug.errors import DirePlugError
from dire_plug.models import build


def install(*, device: str, module: str, replace: Mapping[str, str], outputs: str = "") -> None:
    """Let names of a module build networks of ours, whenever the module is imported.

    Args:
        device: unused.
        module: its name, as the script imports it.
        replace: a class or function of the module → the architecture that it builds.
        outputs: the keyword by which some are given the number of outputs; else it is the first positional argument.
    """
    builders = {name: partial(_build, architecture, outputs) for name, architecture in replace.items()}
    # at each import: upstream's modules are forgotten between passes
    sys.meta_path = [_Finder(module, builders), *sys.meta_path]


class _Finder(MetaPathFinder):
    """Finds one module as usual, and puts the builders into it once it has run."""

    def __init__(self, module: str, builders: Mapping[str, Any]) -> None:
        self._module, self._builders = module, builders

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the module's specification; None of others.

        Raises:
            DirePlugError: when the module is imported, and lacks one of the names.
        """
        spec = PathFinder.find_spec(fullname, path) if fullname == self._module else None
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            for name, builder in self._builders.items():
                if not hasattr(module, name):
                    raise DirePlugError(f"shim 'own_networks': upstream's module '{fullname}' has no '{name}'")
                setattr(module, name, builder)

        setattr(spec.loader, "exec_module", exec_module)  # noqa: B010 (mypy lets no method be replaced)
        return spec


def _build(architecture: str, outputs: str, *given: int, **named: Any) -> nn.Module:
    return build(architecture, outputs=named[outputs] if outputs in named else given[0])
