"""Open a condensed set, from outside or of a finished run: read it, and resolve the recipe that judges it.

The recipe gives the real data (size, number of images), the networks that embed and label, and the protocol. Its own
synthesis isn't run: it is planned as an arm of real images is, which needs no upstream code.
"""

from dataclasses import dataclass, replace
from filecmp import cmp
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from dire_plug import plugins
from dire_plug.data import class_count, names
from dire_plug.errors import DirePlugError
from dire_plug.files import expand_user, read_json
from dire_plug.image_files import TENSORS
from dire_plug.measures import JUDGED_ON_VALIDATION
from dire_plug.pipeline.request import plan_run, with_data
from dire_plug.recipe import read_yaml, recipe_names
from dire_plug.recipe.evaluate import EvaluateSection, HardLabelsSection
from dire_plug.recipe.loading import Tree, dataset_settings, is_folder, is_recipe_file, mapping, path_setting
from dire_plug.recipe.values import LEARNED
from dire_plug.sets.condensed import CondensedSet, Space, read_condensed, read_space, require_set
from dire_plug.stages.artefacts import Source
from dire_plug.stages.images import ImageSet
from dire_plug.store.runs import Request, Run, RunFolder
from dire_plug.types import EXTRAS, LEARNED_LR
from dire_plug.types.artefact import Artefact

OWN_IMAGES = ("images", "subset")
"""Roles, and kinds, of the artefacts that hold a run's images."""
DEFAULT_METHOD = "sre2l"
"""Whose recipe of a dataset judges where none is named: its teacher and independent network are plain ones."""
FALLBACK = "quick"
"""The recipe of it whose small networks judge sets of a folder of images."""


@dataclass(frozen=True)
class SetRequest:
    """A set, and the recipe that judges it.

    Attributes:
        path: a tree of class folders, a file of tensors, or the folder of a finished run.
        real: the real dataset that it condenses, or the path of a folder of images; None: the recipe's.
        recipe: METHOD/NAME, or a YAML file; None: the run's own, or SRe2L's of the dataset.
        settings: `KEY.KEY=VALUE`, changes of the recipe.
        ipc: the first so many images of each class; None takes all.
        resize: whether images of another size than the real ones are resized.
        space, normalised_by: of a file's tensors, see `condensed.read_space`.
        teacher: a checkpoint instead of the recipe's teacher.
        seed: of the students; None: the run's, or 0.
        out: the folder of run directories.
        accelerate: as the run was, whose teacher is another one under `fast`.
        able: see `Request`.
    """

    path: Path
    real: str | None = None
    recipe: str | None = None
    settings: tuple[str, ...] = ()
    ipc: int | None = None
    resize: bool = False
    space: str | None = None
    normalised_by: str | None = None
    teacher: str | None = None
    seed: int | None = None
    device: str = "auto"
    out: Path | None = None
    data_root: Path | None = None
    offline: bool = False
    accelerate: str = "none"
    able: tuple[str, ...] | None = None
    rerun: tuple[str, ...] = ()
    keep_labels: bool = False
    wait: bool = True


@dataclass(frozen=True)
class OpenedSet:
    """A set, and the run whose stages judge it.

    Attributes:
        condensed: the images.
        space: the space of a file's tensors, as the user named it.
        complete: whether no option left out or converted any image.
        run: the recipe, resolved, with its data.
        made_by: the finished run whose images these are; None for a set from outside.
    """

    condensed: CondensedSet
    space: Space | None
    complete: bool
    run: Run
    made_by: RunFolder | None

    @property
    def recipe(self) -> str:
        """The recipe as a user writes it; a run's own is that of the run."""
        return f"{self.run.adapter.name}/{self.run.recipe.name}"

    @property
    def name(self) -> str:
        """The set's name: the run's, the file's, or the folder's, with the one above where it is called syn_data."""
        path = self.condensed.path
        if self.made_by is not None:
            return self.made_by.path.name
        return f"{path.absolute().parent.name}/{path.name}" if path.name == "syn_data" else path.absolute().name

    def describe(self) -> dict[str, Any]:
        """Return name, counts, digest, and how the set was read, JSON-like."""
        return {"name": self.name, **self.condensed.to_json()}


def open_set(request: SetRequest) -> OpenedSet:
    """Read the set and the real data, and resolve the recipe.

    Raises:
        DirePlugError: the set, the recipe or the dataset is missing, or they don't fit each other.
    """
    space = read_space(request.space, request.normalised_by)
    made_by = find_own_run(request.path)
    if made_by is None:
        require_set(request.path)
    # the dataset says how many classes and pixels the set must have
    run = with_data(_plan(request, made_by))
    path = request.path
    if made_by is not None:
        path = made_by.path / (TENSORS if run.recipe.evaluate.source == "tensor" else "images")
    condensed = read_condensed(path, run.dataset, space=space, ipc=request.ipc, resize=request.resize)
    # again, since the recipe may have other settings for so many images per class
    run = replace(_plan(request, made_by, ipc=condensed.per_class), data=run.data)
    complete = space is None and request.ipc is None and not request.resize
    return OpenedSet(condensed, space, complete, run, made_by)


def find_own_run(path: Path) -> RunFolder | None:
    """Return the run whose folder `path` is; None where it is no run's.

    Raises:
        DirePlugError: the run isn't finished, or copies no images.
    """
    if not all((path / name).is_file() for name in ("status.json", "recipe.yaml", "provenance.json")):
        return None
    run = RunFolder(path.absolute())
    if (state := run.state()) != "finished":
        raise DirePlugError(f"{path}: this run is {state}, not finished; run its command again to the end")
    if not (path / "images").is_dir():
        raise DirePlugError(f"{path}: this run keeps no images, as the arm full doesn't; name another run")
    return run


def provenance_of(run: RunFolder) -> dict[str, Any]:
    """Return the provenance of a run."""
    found: dict[str, Any] = read_json(run.path / "provenance.json")
    return found


def _source_in(recipe: Tree) -> Any:
    return mapping(recipe, "evaluate").get("source")


def _plan(request: SetRequest, run: RunFolder | None, *, ipc: int | None = None) -> Run:
    """Return the resolved recipe; where the recipe has settings of its own for `ipc` images per class, with these.

    Raises:
        DirePlugError: the recipe is unknown or faulty, or is one of another dataset.
    """
    method, recipe = _choose_recipe(request, run)
    settings = list(request.settings)
    # a folder is no recipe's own dataset: the recipe gives networks and protocol only
    if request.real is not None and is_folder(request.real):
        settings = [*dataset_settings(request.real), *settings]
    if request.teacher is not None:
        settings.append(path_setting("squeeze.teacher.checkpoint", request.teacher))
    seed = request.seed if request.seed is not None else (provenance_of(run)["seed"] if run else 0)
    plain = Request(
        method,
        recipe=recipe,
        # plans without upstream's code
        arm="random",
        settings=tuple(settings),
        seed=seed,
        device=request.device,
        out=request.out,
        data_root=request.data_root,
        offline=request.offline,
        accelerate=request.accelerate,
        able=request.able,
        rerun=request.rerun,
        keep_labels=request.keep_labels,
        wait=request.wait,
    )
    planned = plan_run(plain)
    name = planned.recipe.dataset.name
    if request.real is not None and not is_folder(request.real) and request.real != name:
        raise DirePlugError(
            f"--real {request.real}: the recipe {method}/{planned.recipe.name} is of {name}; leave one of them out, or "
            f"take a recipe of {request.real}"
        )
    given = any(one.startswith("ipc=") for one in settings)
    return planned if given or ipc not in planned.recipe.by_ipc else plan_run(replace(plain, ipc=ipc))


def _choose_recipe(request: SetRequest, run: RunFolder | None) -> tuple[str, str]:
    """Return method and recipe: the named one, the run's own, or the default method's of the dataset."""
    if request.recipe is None and run is not None:
        request = replace(request, recipe=str(run.path / "recipe.yaml"))
    if request.recipe is None:
        return DEFAULT_METHOD, _recipe_of(request)
    return read_recipe_name(request.recipe, option="--recipe")


def read_recipe_name(text: str, *, option: str) -> tuple[str, str]:
    """Return method and recipe of METHOD/NAME, or of a YAML file.

    Raises:
        DirePlugError: there is no such file, or no method is named; `option` is what the user wrote it for.
    """
    method, slash, name = text.partition("/")
    if is_recipe_file(text):
        path = expand_user(text, where=option)
        if not path.is_file():
            raise DirePlugError(f"{option} {text}: no such file")
        return str(read_yaml(path).get("method", DEFAULT_METHOD)), str(path)
    if not slash:
        raise DirePlugError(f"{option} {text}: of which method? Write METHOD/NAME, such as {DEFAULT_METHOD}/{method}")
    return plugins.find_method(method), name


def _recipe_of(request: SetRequest) -> str:
    """Return the default method's recipe of a dataset; one that is named after it comes first.

    A folder of the user's own is judged by the networks of the recipe `FALLBACK`.
    """
    dataset = request.real
    if dataset is None:
        known = ", ".join(names())
        raise DirePlugError(
            f"--real: which dataset is it condensed from? One of {known}, or a folder of images, such as ./photos"
        )
    if is_folder(dataset):
        return FALLBACK
    class_count(dataset)  # raises for an unknown name
    folder = plugins.load_adapter(DEFAULT_METHOD).recipes()
    found = [
        name
        for name in sorted(recipe_names(folder), key=lambda name: name != dataset)  # False comes first
        if mapping(read_yaml(folder / f"{name}.yaml"), "dataset").get("name") == dataset
    ]
    if not found:
        raise DirePlugError(
            f"--real {dataset}: {DEFAULT_METHOD} has no recipe of it; take that of another dataset: "
            f"--recipe METHOD/NAME --set dataset.name={dataset}"
        )
    return found[0]


def fit_protocol(opened: OpenedSet) -> tuple[EvaluateSection, ImageSet, list[str]]:
    """Return a protocol that needs nothing the set lacks, the set as students see it, and what was substituted.

    Hard labels alone need more than pixels: a learned learning rate (else `lr_without`), and the loop's own tensors
    (else pixels, normalised or whitened).
    """
    section, notes, condensed = opened.run.recipe.evaluate, list[str](), opened.condensed
    if section.judge == "validation":
        notes.append(JUDGED_ON_VALIDATION)
    extras = learned_by(opened)
    loop = None
    if isinstance(section, HardLabelsSection):
        if section.lr == LEARNED and LEARNED_LR not in extras:
            notes.append(f"the set has no learned learning rate; evaluate.lr_without ({section.lr_without}) is used")
            section = section.model_copy(update={"lr": section.lr_without})
        loop = condensed.loop if section.source == "tensor" else None
        if loop is not None and not _is_loop_space(opened, section):
            loop = None
            notes.append(
                "students learn from pixels, clipped to [0, 1]: the tensors aren't in the protocol's own space"
            )
    digest = {"set": condensed.digest, "in loop space": loop is not None, "extras": extras}
    images = ImageSet(
        find_own_source(opened) or Source(digest=digest),
        lambda: (condensed.images, condensed.labels),
        name="set",
        read_loop=partial(_same, loop),
        whitened=opened.run.adapter.whitens(opened.run.recipe.recover),
        extras=extras,
    )
    return section, images, notes


def find_own_source(opened: OpenedSet) -> Source | None:
    """Return the artefacts that hold a run's own images, so that what was made of these isn't made again.

    None where the set isn't just what the run's own students read: it comes from outside, a part of it was asked for,
    or a file in the folder, or in the store, isn't what it was.
    """
    run, folder = opened.run, opened.made_by
    if folder is None or not opened.complete:
        return None
    own = read_yaml(folder.path / "recipe.yaml")
    # another recipe may read the tensors where the run's read the files
    if (own.get("method"), _source_in(own)) != (run.adapter.name, run.recipe.evaluate.source):
        return None
    named = {role: name for name, role in folder.artefacts().items() if role in OWN_IMAGES}
    found = {role: one for role, name in named.items() if (one := run.store.read(name)) is not None}
    if not found or not all(_is_untouched(run, one, folder.path) for one in found.values()):
        return None
    return Source(found)


def _is_untouched(run: Run, images: Artefact, folder: Path) -> bool:
    """Return whether a folder holds exactly the files of gathered passes or of a subset, and no other images."""
    passes = [one for one in images.inputs.values() if one.kind == "pass"]
    kept: dict[Path, Path] = {}
    for one in (*passes, images):  # what was gathered takes the place of what a pass left
        if (entry := run.store.find(one)) is None:
            return False
        kept |= {path: entry / path for path in _image_files(entry)}
    return _image_files(folder) == kept.keys() and all(
        # links first
        (folder / path).samefile(file) or cmp(folder / path, file, shallow=False)
        for path, file in kept.items()
    )


def _image_files(folder: Path) -> set[Path]:
    """Return the files of images and of what was learned beside them, by their path in a folder."""
    found = [*(folder / "images").rglob("*"), folder / TENSORS, folder / EXTRAS]
    return {path.relative_to(folder) for path in found if path.is_file()}


def _same(loop: Tensor | None) -> Tensor | None:
    return loop


def _is_loop_space(opened: OpenedSet, section: HardLabelsSection) -> bool:
    """Return whether the set's tensors are in the space in which the protocol trains; a run's always are."""
    if opened.made_by is not None:
        return True
    run, space = opened.run, opened.space
    if space is None or run.adapter.whitens(run.recipe.recover) != section.whiten:
        return False
    return section.whiten if space.kind == "zca" else (space.mean, space.std) == (run.script.mean, run.script.std)


def learned_by(opened: OpenedSet) -> dict[str, Any]:
    """Return what the run's script learned beside the images."""
    path = opened.made_by.path / EXTRAS if opened.made_by else None
    found: dict[str, Any] = read_json(path) if path and path.is_file() else {}
    return found
