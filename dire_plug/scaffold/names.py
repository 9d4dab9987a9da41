"""The names of a new package: of the plugin, of what is installed, of the module; and whether they are free."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from dire_plug import plugins
from dire_plug.errors import DirePlugError
from dire_plug.plugins import Kind
from dire_plug.recipe.check import RESERVED_ARMS

LONGEST = 40
_PLUGIN = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_TAKEN: Mapping[Kind, tuple[str, ...]] = MappingProxyType({"methods": (), "regularizers": (*RESERVED_ARMS, "upstream")})
"""What no plugin offers and still means something: arms, and the key of upstream's own loss."""


@dataclass(frozen=True)
class Names:
    """Of one new package, which lies in `folder`; its prefix keeps it apart from other packages of that name."""

    plugin: str
    folder: Path

    @property
    def distribution(self) -> str:
        """The name under which it is installed."""
        return f"dire-plug-{self.plugin}"

    @property
    def module(self) -> str:
        """The name under which it is imported."""
        return self.distribution.replace("-", "_")

    def values(self) -> dict[str, str]:
        """Return what every template may name."""
        return {"name": self.plugin, "distribution": self.distribution, "module": self.module}


def choose_names(kind: Kind, plugin: str, *, into: Path) -> Names:
    """Return the names of a new package that is to lie below the folder `into`.

    Raises:
        DirePlugError: the plugin's name can't be one, or is taken; or the package's folder is there already.
    """
    if not _PLUGIN.fullmatch(plugin) or len(plugin) > LONGEST:
        raise DirePlugError(
            f"the name '{plugin}' can't be a plugin's: small letters, digits and single '-', a letter first, at most "
            f"{LONGEST} in all, such as 'my-term'"
        )
    if plugin in plugins.known(kind):
        where = plugins.known(kind)[plugin].value
        raise DirePlugError(f"the name '{plugin}' is taken among {kind}, by {where}; choose another")
    if plugin in _TAKEN[kind]:
        raise DirePlugError(f"the name '{plugin}' means something else in a run; choose another")
    names = Names(plugin, into.absolute() / f"dire-plug-{plugin}")
    if names.folder.exists() or names.folder.is_symlink():
        raise DirePlugError(f"{names.folder}: is there already; move it away, or choose another folder with --into")
    return names
