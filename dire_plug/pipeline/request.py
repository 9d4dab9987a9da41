"""From what the user asked for to what will run: recipe resolved and checked, engine chosen, folder named."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from dire_plug import home, plugins, ui
from dire_plug.errors import DirePlugError
from dire_plug.recipe import Catalogue, Resolved, identity, read_yaml, recipe_path, resolve
from dire_plug.types import Adapter

Engine = Literal["upstream", "native", "none"]
REAL_ARMS = ("random",)
"""Arms that take real images in the place of synthesized ones."""


@dataclass(frozen=True)
class Request:
    """What the command line says; the defaults are those of `dire-plug run METHOD`."""

    method: str
    recipe: str = "quick"
    arm: str = "baseline"
    ipc: int | None = None
    preset: str | None = None
    settings: tuple[str, ...] = ()
    seed: int = 0
    device: str = "auto"
    engine: str = "auto"
    out: Path | None = None
    data_root: Path | None = None
    offline: bool = False


@dataclass(frozen=True)
class PlannedRun:
    """A request that has been checked: everything but the data is known.

    Attributes:
        source: the recipe's file.
        resolved: the recipe for this arm, with the origin of each value.
        engine: who synthesizes; `none` for real images.
    """

    request: Request
    adapter: Adapter
    source: Path
    resolved: Resolved
    engine: Engine

    def run_identity(self, *, dataset: str) -> dict[str, object]:
        """Return all that changes what comes out of the run; see `runs.directory.run_folder`."""
        return {
            "recipe": identity(self.resolved),
            "arm": self.request.arm,
            "seed": self.request.seed,
            "engine": self.engine,
            "commit": self.adapter.upstream.commit if self.engine == "upstream" else None,
            "patch": _patch_digest(self.adapter) if self.engine == "upstream" else None,
            "dataset": dataset,
        }


def plan_run(request: Request) -> PlannedRun:
    """Check a request without reading data.

    Raises:
        DirePlugError: unknown method or recipe, a faulty recipe, an engine that can't run it.
    """
    adapter = plugins.load_adapter(request.method)
    source = find_recipe(adapter, request.recipe)
    resolved = resolve(
        read_yaml(source),
        arm=request.arm,
        ipc=request.ipc,
        preset=request.preset,
        settings=list(request.settings),
        adapter=adapter,
        catalogue=Catalogue(tuple(plugins.known("regularizers")), plugins.settings_model),
    )
    engine = choose_engine(request, adapter, resolved)
    return PlannedRun(request, adapter, source, resolved, engine)


def find_recipe(adapter: Adapter, name: str) -> Path:
    """Return the file of a recipe: a name of the method's own, or a path to a YAML file."""
    if name.endswith((".yaml", ".yml")):
        path = Path(name).expanduser()
        if not path.is_file():
            raise DirePlugError(f"recipe {path}: no such file")
        return path
    return recipe_path(adapter.recipes(), name)


def choose_engine(request: Request, adapter: Adapter, resolved: Resolved) -> Engine:
    """Return the engine that runs this request; never touches the network.

    Raises:
        DirePlugError: upstream isn't vendored and the recipe, or the method, has no native engine.
    """
    from dire_plug.upstream.vendor import find_vendored

    if request.arm in REAL_ARMS:
        return "none"
    recipe = resolved.recipe
    has_native = adapter.has_native(recipe.recover.script)
    if request.engine == "native":
        if not has_native:
            raise DirePlugError(f"{adapter.name}: no native engine for the script '{recipe.recover.script}'")
        return "native"
    vendored = find_vendored(adapter) is not None
    if not vendored and request.engine == "auto" and recipe.demonstration and has_native:
        ui.say(
            f"{adapter.title}'s own code isn't here, so the native engine runs, which is the same mathematics; "
            f"`dire-plug vendor {adapter.name}` gets upstream's"
        )
        return "native"
    if not vendored:
        raise DirePlugError(
            f"{adapter.title}'s own code is needed for recipe '{request.recipe}' and isn't here; "
            f"get it with: dire-plug vendor {adapter.name}"
        )
    return "upstream"


def same_but_arm(request: Request, arm: str, seed: int) -> Request:
    """Return the request for another arm and seed of the same comparison."""
    return replace(request, arm=arm, seed=seed)


def runs_root(request: Request) -> Path:
    """Return the folder of run directories."""
    return (request.out or home.runs()).absolute()


def choose_device(name: str) -> str:
    """Return the device that `auto` stands for, or `name` if torch can use it."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise DirePlugError(f"--device {name}: torch can't use it: {str(error).splitlines()[0]}") from error
    return name


def _patch_digest(adapter: Adapter) -> str:
    from dire_plug.upstream.patching import patch_digest
    from dire_plug.upstream.vendor import patch_files

    return patch_digest(patch_files(adapter))
