"""Replace `wandb` by a module that records nothing and sends nothing, whether the real one is installed or not.

Needed by CDA `recover_cda_tiny.py` 265-276 and `recover_cda_in1k.py` 250-261, DWA `distillation_cifar.py` 194-210,
`distillation_tiny.py` 213-229, `distillation_imgnet.py` 223-229, INFER `ufc_cifar.py` 238-261 and `ufc_imgnet.py`
277-300, and MTT `distill.py` 60-69 (settings come back out of `wandb.config._items`), 233 (`wandb.run.name` names the
folder of its results) and 245-407.
"""

import sys
from collections.abc import Iterator, Mapping
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

SILENT = ("log", "finish", "watch", "unwatch", "save", "alert", "define_metric")
MEDIA = ("Image", "Histogram", "Table", "Video", "Audio", "Html", "Artifact")


def install(*, device: str, run_name: str = "run") -> None:
    """Put the replacement into `sys.modules`; `run_name` is the name of a run that the script doesn't name."""
    for name in [name for name in sys.modules if name == "wandb" or name.startswith("wandb.")]:
        del sys.modules[name]
    sys.modules["wandb"] = StandIn(run_name)


class Config:
    """The settings of a run: by attribute, by key, and as the dictionary `_items`."""

    _items: dict[str, Any]

    def __init__(self, values: Any = None) -> None:
        """Take a mapping, or an object with attributes such as an `argparse.Namespace`."""
        # past our own __setattr__, which would look for `_items` to write into
        super().__setattr__("_items", {})
        self.update(values)

    def update(self, values: Any = None, **ignored: Any) -> None:
        """Add settings."""
        self._items.update(values if isinstance(values, Mapping) else vars(values) if values else {})

    def __getattr__(self, name: str) -> Any:
        """Return a setting."""
        try:
            return self._items[name]
        except KeyError:
            raise AttributeError(name) from None

    def __setattr__(self, name: str, value: Any) -> None:
        """Set a setting."""
        self._items[name] = value

    def __getitem__(self, name: str) -> Any:
        """Return a setting."""
        return self._items[name]

    def __setitem__(self, name: str, value: Any) -> None:
        """Set a setting."""
        self._items[name] = value

    def __contains__(self, name: object) -> bool:
        """Return whether there is such a setting."""
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names."""
        return iter(self._items)

    def keys(self) -> Any:
        """Return the names."""
        return self._items.keys()

    def get(self, name: str, default: Any = None) -> Any:
        """Return a setting, or `default`."""
        return self._items.get(name, default)


class Nothing:
    """Accepts any arguments and keeps none."""

    def __init__(self, *ignored: Any, **also_ignored: Any) -> None:
        """Ignore the data that wandb would draw."""


class StandIn(ModuleType):
    """The module: the functions of wandb that the seven upstreams call."""

    def __init__(self, run_name: str) -> None:
        """Make a module without a run."""
        super().__init__("wandb", "Stands in for wandb; records nothing.")
        self.__spec__ = ModuleSpec("wandb", None)  # or `importlib.util.find_spec` raises
        self.run: Any = None
        self.config = Config()
        self.api = SimpleNamespace(api_key="none")
        self._run_name = run_name
        for name in SILENT:
            setattr(self, name, _do_nothing)
        for name in MEDIA:
            setattr(self, name, type(name, (Nothing,), {}))

    def login(self, *ignored: Any, **also_ignored: Any) -> bool:
        """Return success."""
        return True

    def init(self, *ignored: Any, name: str | None = None, config: Any = None, **also_ignored: Any) -> Any:
        """Begin a run: keep its settings and its name, and return it."""
        self.config = Config(config)
        silent = {name: _do_nothing for name in SILENT}
        chosen = name or self._run_name
        self.run = SimpleNamespace(name=chosen, id=chosen, config=self.config, summary={}, dir=".", **silent)
        return self.run


def _do_nothing(*ignored: Any, **also_ignored: Any) -> None:
    """Record nothing."""
