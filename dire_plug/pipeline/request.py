"""Turn a request into a run: resolve and check the recipe, choose the engine, load the data."""

import contextlib
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch

from dire_plug import plugins, ui
from dire_plug.data import (
    Dataset,
    DatasetSource,
    class_count,
    hold_out,
    load,
    on_device,
    stand_in,
    validation_problems,
)
from dire_plug.errors import DirePlugError, MissingError, nearest
from dire_plug.models import check_architecture, check_size
from dire_plug.models.small_networks import GREY
from dire_plug.pipeline.network_costs import takes_one_image
from dire_plug.recipe import REAL_IMAGE_ARMS, Resolved, ladder_arms, read_yaml, recipe_names, resolve
from dire_plug.recipe.check import FULL, raise_problems
from dire_plug.recipe.evaluate import CVDDSection, HardLabelsSection, check_protocol
from dire_plug.recipe.messages import Problem
from dire_plug.recipe.model import RDED, DatasetSection, Recipe, TrainingSection
from dire_plug.recipe.values import LEARNED
from dire_plug.stages.artefacts import role_of_independent, role_of_labeller, roles_frozen, roles_in_loop
from dire_plug.stages.embed import check_real_embeddings
from dire_plug.stages.real_images import check_memory, too_few
from dire_plug.stages.real_patches import check_patches
from dire_plug.store.runs import DATA, RERUN, Engine, Request, Run
from dire_plug.types import Adapter
from dire_plug.upstream.source.vendor import find_vendored, require_packages


def plan_run(request: Request, *, dry: bool = False) -> Run:
    """Check a request without reading data.

    Args:
        dry: also return a request that can't run yet because upstream's code isn't vendored.

    Raises:
        DirePlugError: unknown method or recipe, a faulty recipe, an engine that can't run it.
    """
    for stage in request.rerun:
        if stage not in RERUN:
            raise DirePlugError(f"--rerun {stage}: no such stage{nearest(stage, RERUN)}; one of {', '.join(RERUN)}")
    adapter = plugins.load_adapter(request.method)
    source = plugins.find_recipe(adapter, request.recipe)
    resolved = resolve(
        read_yaml(source),
        arm=request.arm,
        ipc=request.ipc,
        preset=request.preset,
        settings=list(request.settings),
        sections=request.sections,
        adapter=adapter,
        catalogue=plugins.regularizer_models(),
    )
    check_names(resolved)
    check_classes(resolved, adapter)
    engine, ready = choose_engine(request, adapter, resolved)
    if not ready and not dry:
        message = f"recipe '{request.recipe}': {absence(adapter)}"
        raise MissingError(message, command=VENDOR, names=(adapter.name,))
    if engine == "upstream" and not dry:
        require_packages(adapter)
    return Run(request, adapter, source, resolved, engine, ready)


def check_names(resolved: Resolved) -> None:
    """Check the names that only a late stage would look up, before anything is trained.

    Raises:
        DirePlugError: an unknown protocol, dataset or architecture.
    """
    recipe = resolved.recipe
    count_classes(recipe)
    check_protocol(recipe.evaluate.protocol)
    squeeze = recipe.squeeze
    for training in trained_networks(recipe).values():
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


def trained_networks(recipe: Recipe) -> dict[str, TrainingSection]:
    """Return dotted key → how a network of a recipe is trained, without those that only terms see."""
    squeeze = recipe.squeeze
    found = {"squeeze.teacher": squeeze.teacher, "squeeze.independent": squeeze.independent}
    found |= {f"squeeze.others.{name}": one for name, one in squeeze.others.items()}
    return found if squeeze.labeller is None else {**found, "squeeze.labeller": squeeze.labeller}


def source_of(section: DatasetSection) -> DatasetSource:
    """Return where a recipe's images come from."""
    return DatasetSource(section.name, section.path, section.test_fraction, section.split_seed)


def count_classes(recipe: Recipe) -> int:
    """Return the number of classes of a recipe's dataset; those of a folder are counted, no image is read.

    Raises:
        DirePlugError: there is no such dataset, or a folder doesn't hold classes.
    """
    return class_count(source_of(recipe.dataset))


def check_sizes(resolved: Resolved, size: int) -> None:
    """Check that all networks and students take images of `size` pixels, before anything is trained.

    Raises:
        DirePlugError: one doesn't; the message names the architecture and what it takes.
    """
    recipe = resolved.recipe
    used = [(one.architecture, key) for key, one in trained_networks(recipe).items()]
    used += [(one.architecture, "term.network") for one in recipe.term.frozen(recipe.squeeze).values()]
    used += [(name, "evaluate.students") for name in recipe.evaluate.students]
    for name, key in used:
        try:
            check_size(name, size)
        except DirePlugError as error:
            raise DirePlugError(
                f"{error}; the images of {recipe.dataset.name} have {size} here, and the recipe's {key} is {name}: set "
                "dataset.size, or name another network"
            ) from error


def check_classes(resolved: Resolved, adapter: Adapter) -> None:
    """Check the recipe against the number of the dataset's classes, before anything is trained.

    Raises:
        DirePlugError: all problems, one `location: message` a line.
    """
    recipe = resolved.recipe
    classes = count_classes(recipe)
    script = adapter.scripts[recipe.recover.script]
    own_loop = recipe.demonstration and adapter.has_native(recipe.recover.script)
    if not script.takes(classes) and not own_loop:
        raise unfit(adapter, recipe, classes=classes)
    if classes > (outputs := recipe.squeeze.outputs):
        raise DirePlugError(
            f"squeeze.outputs: {outputs} outputs can't tell the {classes} classes of {recipe.dataset.name} apart; set "
            f"squeeze.outputs={classes}, with which the native engine runs. {_takers(classes)}"
        )
    found = [
        *adapter.problems(recipe, classes=classes),
        *_label_problems(resolved, adapter),
        *validation_problems(recipe.dataset.validation, classes=classes, judge=recipe.evaluate.judge),
    ]
    raise_problems([Problem(location, message) for location, message in found], name=recipe.name)


def _label_problems(resolved: Resolved, adapter: Adapter) -> list[tuple[str, str]]:
    """Return what of a protocol doesn't fit the networks and the method, which students would find out."""
    recipe, section = resolved.recipe, resolved.recipe.evaluate
    found = []
    learned = isinstance(section, HardLabelsSection) and section.lr == LEARNED
    if learned and not adapter.learns_rate and resolved.arm not in REAL_IMAGE_ARMS:
        found.append(("evaluate.lr", f"{adapter.title} learns no learning rate; set it to a number"))
    networks = 1 if recipe.squeeze.labeller is not None else 1 + len(recipe.squeeze.others)
    if isinstance(section, CVDDSection) and section.votes and len(section.votes) != networks:
        found.append(("evaluate.votes", f"{len(section.votes)} votes, but {networks} networks label; give one each"))
    return found


def unfit(adapter: Adapter, recipe: Recipe, *, classes: int, size: int | None = None) -> DirePlugError:
    """Return the error that upstream's script can't run on a dataset, with the scripts and engines that can."""
    name = recipe.recover.script
    script = adapter.scripts[name]
    takes = f"{'up to ' if script.fewer else 'just '}{script.classes} classes"
    takes += "" if script.any_size else f" at {script.size} pixels"
    what = f"{classes} classes" + ("" if size is None else f" at {size} pixels")
    other = f"; set dataset.size={script.size}" if size is not None and script.takes(classes) else ""
    return DirePlugError(
        f"dataset: {recipe.dataset.name} has {what}, and {adapter.title}'s script '{name}' takes {takes}{other}. "
        f"{_takers(classes)}"
    )


def _takers(classes: int) -> str:
    """Return a sentence on the scripts, and the native loops, that take so many classes."""
    found, native = list[str](), list[str]()
    for method in plugins.known("methods"):
        # a third party's broken package is no reason to hide the others
        with contextlib.suppress(DirePlugError):
            adapter = plugins.load_adapter(method)
            names = [name for name, script in adapter.scripts.items() if script.takes(classes)]
            found += [f"{method} {', '.join(names)}"] if names else []
            native += [f"{method} {name}" for name in adapter.scripts if adapter.has_native(name)]
    takers = f"Upstream's scripts for {classes} classes: {'; '.join(found) or 'none'}"
    return f"{takers}. The native engine takes any number: {', '.join(native)} (demonstrations only)"


def choose_engine(request: Request, adapter: Adapter, resolved: Resolved) -> tuple[Engine, bool]:
    """Return the engine that runs this request, and whether it is available; never uses the network.

    Raises:
        DirePlugError: the method has no native engine and the request wants it, or the vendored code was changed.
    """
    # real images need no loop, so neither engine has to be here
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
    native = recipe.demonstration and has_native and request.engine == "auto"
    classes, script = count_classes(recipe), adapter.scripts[recipe.recover.script]
    if not script.takes(classes):
        if not native:
            raise unfit(adapter, recipe, classes=classes)
        return "native", True
    if recipe.squeeze.outputs != script.classes:
        if not native:
            raise DirePlugError(
                f"squeeze.outputs: the script '{recipe.recover.script}' builds a network with {script.classes} "
                f"outputs, so this must be {script.classes} (is {recipe.squeeze.outputs}); the native engine takes more"
            )
        return "native", True
    # demonstrations only: a figure of the paper stands for upstream's own code
    if native and not vendored:
        ui.say_once(
            f"{adapter.title}'s own code isn't vendored, so the native engine runs, which is the same mathematics; "
            f"`dire-plug vendor {adapter.name}` gets upstream's"
        )
        return "native", True
    return "upstream", vendored


VENDOR = "dire-plug vendor"


def absence(adapter: Adapter) -> str:
    """Return the message that upstream's code isn't vendored, with the command that gets it."""
    return f"{adapter.title}'s own code is needed and isn't vendored; get it with: {VENDOR} {adapter.name}"


def same_but_arm(request: Request, arm: str, seed: int) -> Request:
    """Return the request for another arm and seed of the same comparison."""
    return replace(request, arm=arm, seed=seed)


def ladder_of(request: Request) -> tuple[str, ...]:
    """Return the arms of a request's ladder, from baseline to `dire`.

    Raises:
        DirePlugError: unknown method or recipe, or the recipe has no arm `dire`.
    """
    return ladder_arms(
        read_yaml(plugins.find_recipe(plugins.load_adapter(request.method), request.recipe)),
        ipc=request.ipc,
        preset=request.preset,
        settings=request.settings,
        catalogue=plugins.regularizer_models(),
    )


def with_data(run: Run) -> Run:
    """Return a run with its dataset, without its validation images where the recipe holds some out.

    Raises:
        DirePlugError: the data are missing, or a network of the recipe doesn't take images of their size.
    """
    found = read_data(run)
    check_sizes(run.resolved, found.size)
    check_script_size(run, found)
    say_colour_blind(run, found)
    return replace(run, data=on_device(found, run.device))


def say_colour_blind(run: Run, data: Dataset) -> None:
    """Say which of a recipe's networks average the channels, where the images have colours."""
    recipe = run.recipe
    squeeze, students = recipe.squeeze, recipe.evaluate.students
    trained = {"squeeze.teacher.architecture": squeeze.teacher, "squeeze.independent.architecture": squeeze.independent}
    found = {key: one.architecture for key, one in trained.items() if one.architecture.endswith(GREY)}
    grey = [student for student in students if student.endswith(GREY)]
    if not (found or grey):
        return
    # some of all classes, since images lie class by class
    some = data.train.images(torch.linspace(0, len(data.train) - 1, min(len(data.train), LOOKED_AT)).long())
    if torch.equal(some, some[:, :1].expand_as(some)):
        return
    changes = [f"--set {key}={name.removesuffix(GREY)}" for key, name in found.items()]
    if grey:
        changes.append(f"--set 'evaluate.students=[{', '.join(one.removesuffix(GREY) for one in students)}]'")
    own = f"--recipe {OWN}, or " if OWN in recipe_names(run.adapter.recipes()) else ""
    ui.say_once(
        f"warning: {data.name} has colours, and networks of the recipe '{recipe.name}' see grey alone; those that see "
        f"colours: {own}{' '.join(changes)}"
    )


OWN = "own"
"""The recipe of a method whose small networks see colours."""
LOOKED_AT = 64
"""Images in which colours are looked for."""


def with_stand_in(run: Run) -> Run:
    """Return a run with a stand-in for its dataset, of the published size: for plans and estimates.

    Raises:
        DirePlugError: a network of the recipe doesn't take images of their size.
    """
    section = run.recipe.dataset
    found = stand_in(
        source_of(section),
        size=section.size,
        limit=section.limit,
        validation=section.validation,
        judge=run.recipe.evaluate.judge,
    )
    check_sizes(run.resolved, found.size)
    return replace(run, data=found)


def check_script_size(run: Run, data: Dataset) -> None:
    """Raise where upstream's script is to run and takes no images of this size."""
    if run.engine == "upstream" and not run.script.takes(len(data.classes), data.size):
        raise unfit(run.adapter, run.recipe, classes=len(data.classes), size=data.size)


def check_counts(run: Run) -> None:
    """Check that there are the training images that a late stage will take, before anything is trained.

    Raises:
        DirePlugError: there are too few in a class to choose IPC of, to start from, to give the term, to measure
            neighbourhoods, or for what upstream's script does; or too many for the arm `full`.
    """
    data, recipe = run.dataset, run.recipe
    least, name = fewest(data)
    synthesizes = run.arm not in REAL_IMAGE_ARMS
    if run.arm == FULL:
        check_memory(run)
    if synthesizes:
        run.adapter.check_dataset(recipe, data)
        if run.regularizers and recipe.real.per_class is not None:
            each = len(data.train) // len(data.classes) if recipe.real.order == "as_released" else least
            check_real_embeddings(data, name, count=each, wanted=recipe.real.per_class)
    if RDED in (run.arm, recipe.recover.start if synthesizes else None):
        check_patches(recipe.rded, data, ipc=recipe.ipc)
    takes = recipe.recover.start == "real" if synthesizes else run.arm not in (FULL, RDED)
    if takes and least < recipe.ipc:
        raise too_few(data, name, count=least, ipc=recipe.ipc)
    check_neighbours(run)


def check_batches(run: Run) -> None:
    """Check that no training has a batch of one image, where its network can't take that.

    Raises:
        DirePlugError: one does; the message names the setting.
    """
    section, squeeze, size = run.recipe.evaluate, run.recipe.squeeze, run.dataset.size
    roles = {"squeeze.independent": role_of_independent(run), "squeeze.labeller": role_of_labeller(run)}
    teacher, *others = roles_in_loop(run)
    roles |= {"squeeze.teacher": teacher, **{f"squeeze.others.{role.name}": role for role in others}}
    roles |= {f"squeeze.frozen.{role.section.architecture}": role for role in roles_frozen(run)}
    found = [
        (key, len(run.dataset.train), role.section.batch_size, 1, role.section.architecture, role.stem)
        for key, role in roles.items()
        if role is not None and role.section.checkpoint is None
    ]
    accumulate = getattr(section, "accumulate", 1)
    stem = (role_of_labeller(run) or teacher).stem
    found += [
        ("evaluate", count_images(run), section.batch_size, accumulate, student, stem) for student in section.students
    ]
    for key, count, batch_size, parts, architecture, own in found:
        network = {"architecture": architecture, "outputs": squeeze.outputs, "stem": own, "size": size}
        if 1 in batch_sizes(count, batch_size, parts) and not takes_one_image(**network):
            raise DirePlugError(
                f"{key}.batch_size: of {count:,} images in batches of {batch_size} one is left by itself, and "
                f"{architecture} can't be trained with a single image of {size} pixels; take another size of batches"
            )


def batch_sizes(count: int, batch_size: int, parts: int = 1) -> set[int]:
    """Return how many images pass a network at once: in a whole batch and in the last one, each cut into `parts`."""
    part = -(-batch_size // parts)
    batches = {min(count, batch_size), count % batch_size}
    return {size for batch in batches for size in (min(batch, part), batch % part)} - {0}


def count_images(run: Run) -> int:
    """Return the number of images that students learn from."""
    if run.engine != "none":
        return run.classes * run.plan.ipc
    return len(run.dataset.train) if run.arm == FULL else run.classes * run.recipe.ipc


def check_neighbours(run: Run) -> None:
    """Raise where a class of the training images is too small for `measure.nearest_k`."""
    least, name = fewest(run.dataset)
    if least <= (k := run.recipe.measure.nearest_k):
        raise DirePlugError(
            f"measure.nearest_k: {k} neighbours take {k + 1} images, but class '{name}' of {run.dataset.name} has "
            f"{least} training images; add images, or lower measure.nearest_k"
        )


def fewest(data: Dataset) -> tuple[int, str]:
    """Return the number of training images in the smallest class, and its name."""
    counts = data.train.labels.bincount(minlength=len(data.classes))
    label = int(counts.argmin())
    return int(counts[label]), data.classes[label]


def read_data(run: Run) -> Dataset:
    """Load a run's dataset as `with_data` does, whatever the recipe's networks take.

    Raises:
        DirePlugError: the data are missing.
    """
    request, recipe = run.request, run.recipe
    anew = DATA in request.rerun
    return _read_data(recipe.dataset, recipe.evaluate.judge, request.data_root, request.offline, anew)


@lru_cache(maxsize=1)  # the arms of a comparison have one dataset
def _read_data(
    section: DatasetSection, judge: Literal["test", "validation"], root: Path | None, offline: bool, anew: bool
) -> Dataset:
    found = load(source_of(section), root=root, size=section.size, limit=section.limit, offline=offline, anew=anew)
    return found if section.validation is None else hold_out(found, section.validation, judge=judge)
