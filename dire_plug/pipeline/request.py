"""From what the user asked for to what will run: recipe resolved and checked, engine chosen, folder named."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from dire_plug import home, plugins, ui
from dire_plug.errors import DirePlugError
from dire_plug.recipe import REAL_IMAGE_ARMS, Catalogue, Resolved, identity, read_yaml, recipe_path, resolve
from dire_plug.recipe.check import raise_problems
from dire_plug.recipe.wording import Problem
from dire_plug.types import Adapter

Engine = Literal["upstream", "native", "none"]


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
    accelerate: str = "none"


@dataclass(frozen=True)
class PlannedRun:
    """A request that has been checked: everything but the data is known.

    Attributes:
        source: the recipe's file.
        resolved: the recipe for this arm, with the origin of each value.
        engine: who synthesizes; `none` for real images.
        ready: whether the engine is here; only a dry run gets a request whose engine isn't.
    """

    request: Request
    adapter: Adapter
    source: Path
    resolved: Resolved
    engine: Engine
    ready: bool = True

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
            "plugins": _strangers(self.adapter.name, self.resolved.regularizers),
        }


def plan_run(request: Request, *, dry: bool = False) -> PlannedRun:
    """Check a request without reading data.

    Args:
        dry: also return a request that can't run yet because upstream's code isn't here.

    Raises:
        DirePlugError: unknown method or recipe, a faulty recipe, an engine that can't run it.
    """
    from dire_plug.upstream.vendor import require_packages

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
    check_names(resolved)
    check_classes(resolved, adapter)
    engine, ready = choose_engine(request, adapter, resolved)
    if not ready and not dry:
        raise DirePlugError(f"recipe '{request.recipe}': {absence(adapter)}")
    if engine == "upstream" and not dry:
        require_packages(adapter)
    return PlannedRun(request, adapter, source, resolved, engine, ready)


def check_names(resolved: Resolved) -> None:
    """Refuse names that only a late stage would look up, before anything is trained.

    Raises:
        DirePlugError: an unknown protocol, dataset or architecture.
    """
    from dire_plug.data import class_count
    from dire_plug.models import check_architecture
    from dire_plug.protocols import check_protocol

    recipe = resolved.recipe
    class_count(recipe.dataset.name)
    check_protocol(recipe.evaluate.protocol)
    squeeze = recipe.squeeze
    for training in (squeeze.teacher, *squeeze.others.values(), squeeze.independent):
        check_architecture(training.architecture)
    for name in recipe.evaluate.students:
        check_architecture(name)
    for name, training in squeeze.frozen.items():
        if training.architecture != name:
            raise DirePlugError(f"squeeze.frozen.{name}.architecture: must be {name} (is '{training.architecture}')")
    for name, training in recipe.term.frozen(squeeze).items():
        check_architecture(training.architecture)
        if training.architecture == squeeze.independent.architecture:
            raise DirePlugError(
                f"term.network: '{name}' is of the architecture of the independent network, which judges the images; "
                "take another one, or change squeeze.independent.architecture"
            )


def check_sizes(resolved: Resolved, size: int) -> None:
    """Refuse images of `size` pixels that a network or student of the recipe doesn't take, before anything is trained.

    Raises:
        DirePlugError: it names the architecture, and what it takes.
    """
    from dire_plug.models import check_size

    squeeze = resolved.recipe.squeeze
    outside = resolved.recipe.term.frozen(squeeze).values()
    trained = (squeeze.teacher, *squeeze.others.values(), *outside, squeeze.independent)
    networks = [training.architecture for training in trained]
    for name in (*networks, *resolved.recipe.evaluate.students):
        check_size(name, size)


def check_classes(resolved: Resolved, adapter: Adapter) -> None:
    """Refuse what doesn't fit the number of the dataset's classes, before anything is trained.

    Raises:
        DirePlugError: all that doesn't fit, one `location: message` a line.
    """
    from dire_plug.data import class_count, validation_problems

    recipe = resolved.recipe
    classes = class_count(recipe.dataset.name)
    found = [
        *adapter.problems(recipe, classes=classes),
        *validation_problems(recipe.dataset.validation, classes=classes, judge=recipe.evaluate.judge),
    ]
    raise_problems([Problem(location, message) for location, message in found], name=recipe.name)


def find_recipe(adapter: Adapter, name: str) -> Path:
    """Return the file of a recipe: a name of the method's own, or a path to a YAML file."""
    if name.endswith((".yaml", ".yml")):
        path = Path(name).expanduser()
        if not path.is_file():
            raise DirePlugError(f"recipe {path}: no such file")
        return path
    return recipe_path(adapter.recipes(), name)


def choose_engine(request: Request, adapter: Adapter, resolved: Resolved) -> tuple[Engine, bool]:
    """Return the engine that runs this request, and whether it is here; never touches the network.

    Raises:
        DirePlugError: the method has no native engine and it was asked for, or the vendored code was changed.
    """
    from dire_plug.upstream.vendor import find_vendored

    if request.arm in REAL_IMAGE_ARMS:
        return "none", True
    recipe = resolved.recipe
    has_native = adapter.has_native(recipe.recover.script)
    if request.engine == "native":
        if not has_native:
            raise DirePlugError(f"{adapter.name}: no native engine for the script '{recipe.recover.script}'")
        if not recipe.demonstration:
            raise DirePlugError(
                f"recipe '{request.recipe}' stands for figures of the paper, so it runs upstream's own code only; "
                f"leave out --engine native, and get the code with: dire-plug vendor {adapter.name}"
            )
        return "native", True
    vendored = find_vendored(adapter) is not None
    if not vendored and request.engine == "auto" and recipe.demonstration and has_native:
        ui.say_once(
            f"{adapter.title}'s own code isn't here, so the native engine runs, which is the same mathematics; "
            f"`dire-plug vendor {adapter.name}` gets upstream's"
        )
        return "native", True
    return "upstream", vendored


def absence(adapter: Adapter) -> str:
    """Return the words for upstream's code that isn't here, and the command that gets it."""
    return f"{adapter.title}'s own code is needed and isn't here; get it with: dire-plug vendor {adapter.name}"


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
        torch.zeros(1, device=name).item()  # the device `meta` can't, and no run can use it
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise DirePlugError(f"--device {name}: torch can't use it: {str(error).splitlines()[0]}") from error
    return name


def _strangers(method: str, regularizers: Iterable[str]) -> dict[str, str]:
    """Return the packages, with versions, of the active plugins that aren't ours: an update of one makes other runs."""
    points = [plugins.known("methods").get(method), *map(plugins.known("regularizers").get, regularizers)]
    packages = {point.name: point.dist for point in points if point is not None}
    return {name: f"{dist.name} {dist.version}" for name, dist in packages.items() if dist and dist.name != "dire-plug"}


def _patch_digest(adapter: Adapter) -> str:
    from dire_plug.upstream.patching import patch_digest
    from dire_plug.upstream.vendor import patch_files

    return patch_digest(patch_files(adapter))
