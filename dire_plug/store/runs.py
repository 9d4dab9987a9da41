"""Describe a run, one arm of one recipe with one seed: the request, the checked run, and its folder."""

from __future__ import annotations

import datetime
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dire_plug import home
from dire_plug.errors import DirePlugError
from dire_plug.files import digest, make_folder, read_json, write_json
from dire_plug.recipe import Recipe, Resolved
from dire_plug.store.artefacts import Store
from dire_plug.store.lease import holder
from dire_plug.types import Adapter, Plan, Script
from dire_plug.types.artefact import Artefact

if TYPE_CHECKING:
    import torch

    from dire_plug.acceleration import Components
    from dire_plug.data import Dataset

Engine = Literal["upstream", "native", "none"]

LOSSES = "losses.json"
"""In the run's folder: upstream's loss and each term, step by step: see `synthesis.recording`."""
METRICS = "metrics.json"
"""In the run's folder: accuracies, diversity, and what they were made from; written when all stages are done."""
ARTEFACTS = "artefacts.json"
"""In the run's folder: name → role of every entry of the store that the run consists of or is made from."""
COMPARISON = "compare.json"
"""The file of a comparison in its folder, which lies beside its runs."""
DATA = "data"
RERUN: dict[str, tuple[str, ...]] = {
    DATA: ("pixels",),
    "squeeze": ("network",),
    "embed": ("embeddings", "real"),
    "prepare": ("start", "whitening", "prepared", "expert"),
    "recover": ("batch", "pass", "images", "subset"),
    "evaluate": ("labels", "student"),
    "measure": ("radii", "reference", "diversity", "collapse"),
}
"""Stage → the kinds of artefacts that it leaves; `--rerun STAGE` makes them again; `data` lists the dataset anew."""


@dataclass(frozen=True)
class Request:
    """The options of a command line; the defaults are those of `dire-plug run METHOD`."""

    method: str
    recipe: str = "quick"
    arm: str = "baseline"
    ipc: int | None = None
    preset: str | None = None
    settings: tuple[str, ...] = ()
    sections: tuple[str, ...] = ()
    """`KEY=VALUE`, which replace all that the recipe says there: another protocol, the networks that judge by it."""
    seed: int = 0
    device: str = "auto"
    engine: str = "auto"
    out: Path | None = None
    data_root: Path | None = None
    offline: bool = False
    accelerate: str = "none"
    able: tuple[str, ...] | None = None
    """The components that `--accelerate fast` may use, where another process looked at its machine; None: look here."""
    rerun: tuple[str, ...] = ()
    """Stages whose artefacts are made again."""
    keep_labels: bool = False
    """Whether stored labels are kept in the store when no student needs them any more."""
    wait: bool = True
    """Whether to wait for another process that works on the same run, or on an entry of the store."""
    gpus: int = 1
    """How many GPUs a script sees that spreads a step over several; every other script sees one."""


@dataclass(frozen=True)
class Run:
    """A request that has been checked: the recipe is resolved, the engine chosen.

    Attributes:
        source: the recipe's file.
        resolved: the recipe for this arm, with the origin of each value.
        engine: what synthesizes; `none` where images are real ones, or come from outside.
        ready: whether the engine is available; only a dry run gets a run without.
        data: the real images, once they are loaded.
        own_store: the store, where it isn't the home's.
    """

    request: Request
    adapter: Adapter
    source: Path
    resolved: Resolved
    engine: Engine
    ready: bool = True
    data: Dataset | None = None
    own_store: Store | None = None

    @property
    def recipe(self) -> Recipe:
        """The recipe as resolved for this arm."""
        return self.resolved.recipe

    @property
    def arm(self) -> str:
        """baseline, control, dire, random, …"""
        return self.request.arm

    @property
    def regularizers(self) -> dict[str, dict[str, Any]]:
        """Plugin name → its settings; empty without a term."""
        return self.resolved.regularizers

    @property
    def seed(self) -> int:
        """Of everything random in this run but its networks."""
        return self.request.seed

    @property
    def script(self) -> Script:
        """The script that the recipe names."""
        return self.adapter.scripts[self.recipe.recover.script]

    @property
    def dataset(self) -> Dataset:
        """The real images."""
        assert self.data is not None, "the run's data haven't been loaded"
        return self.data

    @property
    def classes(self) -> int:
        """The number of classes of the dataset."""
        return len(self.dataset.classes)

    @cached_property
    def plan(self) -> Plan:
        """Which images each batch of the synthesis holds."""
        return self.adapter.plan(self.recipe.recover, classes=self.classes, ipc=self.recipe.ipc)

    @cached_property
    def device(self) -> torch.device:
        """Where networks run."""
        import torch

        return torch.device(choose_device(self.request.device))

    @cached_property
    def components(self) -> Components:
        """What `--accelerate fast` stands for in the synthesis: nothing without it."""
        from dire_plug.acceleration import acting_components

        return self._resolve(() if self.engine == "none" else acting_components(self.adapter, self.script, self.gpus))

    @cached_property
    def trained_with(self) -> Components:
        """What it stands for where networks are trained, label or learn; I, which judges, is the same under all."""
        from dire_plug.acceleration import TRAINED

        return self._resolve(TRAINED)

    def _resolve(self, acting: tuple[str, ...]) -> Components:
        from dire_plug.acceleration import NONE, find_missing, find_unlisted, resolve

        if self.request.accelerate != "fast":
            return NONE
        able = self.request.able
        return resolve(acting, find_missing(self.device) if able is None else find_unlisted(able))

    @property
    def engine_shown(self) -> str:
        """The engine as tables show it, with the components of `--accelerate fast`."""
        return show_engine(self.engine, self.components.names)

    @property
    def gpus(self) -> int:
        """How many GPUs the script sees, where it runs on one at all."""
        return self.request.gpus if self.script.several_gpus else 1

    @property
    def store(self) -> Store:
        """Where the run's artefacts lie."""
        return self.own_store or open_store(home.store(), str(self.device), self.request.rerun, self.request.wait)

    @property
    def root(self) -> Path:
        """The folder of run folders."""
        return runs_root(self.request)


def show_engine(engine: str, components: Sequence[str]) -> str:
    """Return the name of an engine with the components that its syntheses were accelerated by."""
    return f"{engine}, fast ({' + '.join(components)})" if components else engine


@lru_cache(maxsize=8)
def open_store(root: Path, device: str, stages: tuple[str, ...] = (), wait: bool = True) -> Store:
    """Return the store at `root`, one for all runs of this process, so that each knows what the others made.

    Args:
        device: where entries are made.
        stages: those whose artefacts are made again, once.
        wait: for another process that makes the same.

    Raises:
        DirePlugError: there is no such stage.
    """
    return Store(root, device=device, rerun=[kind for stage in stages for kind in RERUN[stage]], wait=wait)


def runs_root(request: Request) -> Path:
    """Return the folder of run folders."""
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


@dataclass(frozen=True)
class RunFolder:
    """One run on disk: a view of its artefacts, with metrics.json."""

    path: Path

    @property
    def lease(self) -> Path:
        """The file of its lease."""
        return self.path.with_name(f".{self.path.name}.lease")

    def status(self) -> dict[str, Any]:
        """Return status.json, or that nothing has been done."""
        file = self.path / "status.json"
        found = read_json(file) if file.is_file() else {"state": "new"}
        if not isinstance(found, dict):
            raise DirePlugError(f"{file}: holds no run status; remove the folder to run again")
        return found

    def state(self) -> str:
        """Return new, running, interrupted, failed or finished."""
        state = str(self.status().get("state", "new"))
        return "interrupted" if state == "running" and holder(self.lease) is None else state

    def set_status(self, state: str, *, stage: str, **more: Any) -> None:
        """Write status.json; that of a finished run has its size, which a list of runs would take long to count."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        size = {"bytes": self._count_bytes()} if state == "finished" else {}
        write_json(self.path / "status.json", {"state": state, "stage": stage, "updated": now, **size, **more})

    def size(self) -> int:
        """Return the bytes of its files; of a finished run, as they were when it was finished."""
        known = self.status().get("bytes")
        return known if isinstance(known, int) else self._count_bytes()

    def _count_bytes(self) -> int:
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())

    def metrics(self) -> dict[str, Any]:
        """Return metrics.json of a finished run.

        Raises:
            DirePlugError: it isn't there, or isn't what a run writes.
        """
        file = self.path / METRICS
        found = read_json(file)
        if not isinstance(found, dict) or not {"arm", "seed", "accuracy", "diversity"} <= found.keys():
            raise DirePlugError(f"{file}: holds no metrics of a run; run its command again")
        return found

    def artefacts(self) -> dict[str, str]:
        """Return name → role of the entries that the run consists of or is made from; empty where none are recorded."""
        file = self.path / ARTEFACTS
        found = read_json(file) if file.is_file() else {}
        if not isinstance(found, dict):
            raise DirePlugError(f"{file}: holds no artefacts of a run; run its command again")
        return found

    def make(self) -> None:
        """Make the folder."""
        make_folder(self.path)


@dataclass(frozen=True)
class FinishedRun:
    """A finished run.

    Attributes:
        reused: whether all of it was there before.
        notes: what of it was made with other threads, another torch or device than this process has.
    """

    folder: RunFolder
    metrics: dict[str, Any]
    reused: bool
    notes: tuple[str, ...] = ()


def run_folder(run: Run, artefacts: list[Artefact]) -> RunFolder:
    """Return a run's folder: `<root>/<method>/<recipe>/<arm>-<seed>-<id>`.

    The id is 8 hex of a hash of the names of the artefacts that the run ends in: of all that decides the results,
    so not of device, threads, paths or time.
    """
    # sorted: the id must not depend on the order in which artefacts are named
    name = digest([run.arm, run.seed, sorted(one.name for one in artefacts)])[:8]
    # by the recipe's own name: a run's recipe.yaml, run again, finds that run
    return RunFolder(run.root / run.adapter.name / run.recipe.name / f"{run.arm}-{run.seed}-{name}")


def list_runs(root: Path) -> list[RunFolder]:
    """Return the runs below `root`, by path."""
    return [RunFolder(file.parent) for file in sorted(root.glob("*/*/*/status.json"))]


def find_run(root: Path, name: str) -> RunFolder:
    """Return the run with this path, folder name, or unambiguous part of a name.

    Raises:
        DirePlugError: none or several match.
    """
    if (Path(name) / "status.json").is_file():
        return RunFolder(Path(name).absolute())
    matching = [run for run in list_runs(root) if name in str(run.path.relative_to(root))]
    if len(matching) == 1:
        return matching[0]
    where = "" if root == home.runs().absolute() else f" --runs {shlex.quote(str(root))}"
    if matching:
        more = f": {', '.join(str(run.path.relative_to(root)) for run in matching[:5])}"
    elif compared := find_comparisons(root, name):
        more = f"; it is a comparison: dire-plug report {compared[0].name}{where}"
    else:
        more = f"; see `dire-plug list runs{where}`"
    raise DirePlugError(f"'{name}' names {len(matching)} runs below {root}{more}")


def find_comparisons(root: Path, name: str) -> list[Path]:
    """Return the folders of comparisons whose name, or path, begins with `name`; the one that is named whole alone."""
    folders = [file.parent for file in sorted(root.glob(f"*/*/*/{COMPARISON}"))]
    wanted = Path(name).name
    whole = [one for one in folders if one.name == wanted]
    return whole or [one for one in folders if one.name.startswith(wanted)]
