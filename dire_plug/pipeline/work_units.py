"""Units of work: the pieces that runs consist of, what each of them waits for, and how one is made by itself.

A unit makes artefacts that the store lacks. Its name follows from what it makes, so the units of several runs, arms and
tables that would make the same are one. A worker names the artefacts of its run again before it starts; where they are
others than those it was asked for, because the code or the data changed in between, it refuses.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from dire_plug.acceleration import check_possible
from dire_plug.errors import DirePlugError
from dire_plug.files import make_folder
from dire_plug.pipeline.request import plan_run, with_data
from dire_plug.pipeline.run import ON_DEMAND, check_gpu, name_artefacts, name_measures, section_of
from dire_plug.plugins import read_once
from dire_plug.stages.artefacts import (
    Inputs,
    Networks,
    Role,
    embeddings_of,
    keeps_state,
    name_batches,
    name_inputs,
    name_network,
    name_networks,
    name_radii,
    name_recovered,
    name_reference,
    name_source,
    name_students,
    name_term_embeddings,
    shares_batches,
)
from dire_plug.stages.collapse_check import check_collapse
from dire_plug.stages.embed import embed, make_embeddings
from dire_plug.stages.evaluate import evaluate, stores_labels, train_one
from dire_plug.stages.images import ImageSet
from dire_plug.stages.measure import measure, measure_real
from dire_plug.stages.prepare import prepare
from dire_plug.stages.recover import recover, recover_pass, recover_slots
from dire_plug.stages.squeeze import all_roles, ensure_network
from dire_plug.store.artefacts import WORK, Store, is_sound
from dire_plug.store.lease import until_kept
from dire_plug.store.runs import Request, Run
from dire_plug.store.units import Unit, changed_since, once
from dire_plug.types.artefact import Artefact

MAKER = "dire_plug.pipeline.work_units:make_unit"
"""Of the units of runs."""
AFTER_IMAGES = ("evaluate", "measure")
"""The stages whose units need no synthesis any more."""
GIVEN = ("network", "start", "whitening", "prepared", "expert", "real")
"""Kinds that a unit finds made, and doesn't make itself where it needs them."""
OF_NO_RUN = ("squeeze", "embed", "measure real in")
"""How the titles of units begin that runs of all arms and seeds share."""


Part = tuple[str, str, list[Artefact], Callable[..., object]]
"""Stage, part, the artefacts that it makes, and the function that makes them."""


def plan_units(requests: Iterable[Request]) -> list[Unit]:
    """Return what the store lacks of some runs, each unit once, in an order in which they can be made.

    Raises:
        DirePlugError: a request is bad, or its data aren't there.
    """
    with read_once():
        return once(unit for request in requests for unit in units_of(with_data(plan_run(request))))


def units_of(run: Run) -> list[Unit]:
    """Return the units that the store lacks for one run, in the order of the stages."""
    found = []
    references: set[str] = set()
    prepared: set[str] = set()
    batches: set[str] = set()
    for stage, part, makes, _ in _parts(run, planning=True):
        # named by all of them, so that a unit that was half made keeps its name
        names = tuple(one.name for one in makes)
        behind = {name for one in makes for name in one.closure()}
        if stage == "prepare":
            prepared = set(names)
        elif stage == "recover":
            # start images are no input of passes that every IPC shares, but the loop reads them
            behind |= prepared
            batches |= {one.name for one in makes if one.kind == "batch"}
        elif stage in AFTER_IMAGES:
            behind |= batches  # no inputs of a pass either: it is the same however it was made
        if on_demand := {one.name for one in makes if one.kind in ON_DEMAND}:
            references |= on_demand
        elif stage == "measure":
            # no input of a set's diversity, but measuring it would make them: once, and not in each job
            behind |= references
        if any(run.store.find(one) is None for one in makes):
            found.append(
                Unit(
                    title=_title(run.request, stage, part),
                    stage=stage,
                    part=part,
                    makes=names,
                    needs=frozenset(behind.difference(names)),
                    maker=MAKER,
                    subject=_to_json(run.request),
                    of=f"{run.adapter.name} {run.recipe.name}, IPC {run.recipe.ipc}{_judged(run.request)}",
                    device=run.request.device,
                )
            )
    return _wanted(found)


def _wanted(units: Sequence[Unit]) -> list[Unit]:
    """Leave out what is only made for another artefact where no unit makes such a one: a finished run needs it not."""
    kept: list[Unit] = []
    for unit in reversed(units):
        is_on_demand = all(name.partition("/")[0] in ON_DEMAND for name in unit.makes)
        if not is_on_demand or any(not other.needs.isdisjoint(unit.makes) for other in kept):
            kept.append(unit)
    return kept[::-1]


def _title(request: Request, stage: str, part: str) -> str:
    shared = f"{stage} {part}".rstrip()
    if shared.startswith(OF_NO_RUN):
        return shared
    return f"{stage} {request.arm}, seed {request.seed}{f': {part}' if part else ''}"


def _judged(request: Request) -> str:
    """Return what tells a run by another recipe's protocol from the recipe's own."""
    return ", one protocol" if request.sections else ""


def _to_json(request: Request) -> dict[str, Any]:
    """Return a request as JSON-like data; paths are absolute, since a job may start in another folder."""
    found = {key: as_json(one) for key, one in asdict(request).items()}
    if Path(request.recipe).is_file():
        found["recipe"] = str(Path(request.recipe).absolute())
    # --no-wait is about other commands: the units of one wait for each other
    return found | {"wait": True}


def as_json(value: Any) -> Any:
    """Return a field of a request as JSON has it."""
    if isinstance(value, Path):
        return str(value.absolute())
    return list(value) if isinstance(value, tuple) else value


def request_of(unit: Unit) -> Request:
    """Return the request of the run that a unit belongs to; of several, of the first."""
    content = unit.subject
    paths = {key: Path(content[key]) for key in ("out", "data_root") if content[key] is not None}
    lists = {key: tuple(content[key]) for key in ("settings", "sections", "rerun", "able") if content[key] is not None}
    return Request(**{**content, **paths, **lists})


def check_inputs(unit: Unit, store: Store) -> None:
    """Raise where the unit would be made from an entry that was damaged, or that isn't there.

    Raises:
        DirePlugError: it names the entry.
    """
    # behind finished images some may be missing, as in an archive; the other kinds are made by whoever needs them
    given = () if unit.stage in AFTER_IMAGES else GIVEN
    for name in unit.needs:
        if (sound := is_sound(store.root, name)) is False or (sound is None and name.partition("/")[0] in given):
            trouble = "isn't there" if sound is None else "was damaged, or edited"
            raise DirePlugError(f"{unit.title}: {name}, from which it is made, {trouble}; run the same command again")


def find_missing_part(unit: Unit, store: Store, parts: Iterable[Part]) -> Callable[..., object] | None:
    """Return what makes a unit, among the parts of its run or set; None where the store has all that it makes.

    Raises:
        DirePlugError: the unit would make something else than was planned, or of inputs that aren't sound.
    """
    known = {(stage, part): (artefacts, make) for stage, part, artefacts, make in parts}
    artefacts, make = known.get((unit.stage, unit.part), ([], None))
    if others := set(unit.makes) - {one.name for one in artefacts}:
        raise changed_since(unit, others)
    if all(store.find(one) is not None for one in artefacts):
        return None
    check_inputs(unit, store)
    return make


@until_kept
def make_unit(unit: Unit, *, log: Path) -> None:
    """Make one unit of a run by itself: see `Unit.make`."""
    run = with_data(plan_run(request_of(unit)))
    if (make := find_missing_part(unit, run.store, _parts(run))) is not None:
        # here too: the command that planned the unit may run on a machine without a GPU
        if unit.stage not in AFTER_IMAGES:
            check_gpu(run, name_artefacts(run))
        check_able(run)
        make(log=log)


def check_able(run: Run) -> None:
    """Raise where this machine can't do what `--accelerate fast` stands for where the run was planned."""
    if run.request.able is not None:
        check_possible({*run.components.names, *run.trained_with.names}, run.device)


def _parts(run: Run, *, planning: bool = False) -> Iterator[Part]:
    """Yield stage, part, the artefacts that it makes, and the function that makes them; it takes `log`.

    Args:
        planning: whether to leave out what serves only what is there.
    """
    networks = name_networks(run)
    inputs = name_inputs(run, networks)
    embeddings = name_term_embeddings(run, networks, inputs)
    source = name_source(run, networks, inputs, embeddings)
    section = section_of(run)
    students = name_students(run, networks, source, section)

    def with_images(use: Callable[[ImageSet], object]) -> Callable[..., object]:
        return partial(_use_images, run, networks, inputs, embeddings, use)

    def measure_all(images: ImageSet) -> None:
        if images.synthesized:
            check_collapse(run, networks, images)
        measure(run, networks, images)

    for role in all_roles(run):
        yield "squeeze", role.name, [name_network(run, role)], partial(_train, run, role)
    yield "prepare", "", list(inputs.all.values()), lambda log: prepare(run, networks)
    judges = {"T": networks.teacher, "I": networks.independent}
    real = {name: (embeddings_of(run, one), embeddings_of(run, one, split="test")) for name, one in judges.items()}
    for name, both in real.items():
        yield "embed", f"real images in {name}", list(both), partial(_embed, run, judges[name])
    embedded = {one.name for both in real.values() for one in both}
    rows = [one for one in embeddings.values() if one.name not in embedded]
    yield "embed", "the rows of the terms", rows, lambda log: embed(run, networks, inputs)
    for name, (train, held_out) in real.items():
        references = [name_radii(run, train), name_reference(run, train, held_out, per_class=run.recipe.ipc)]
        yield "measure", f"real in {name}", references, partial(_measure_real, run, judges[name])
    if run.engine == "none":
        yield "recover", "", list(source.artefacts.values()), with_images(_leave)
    else:
        passes = list(source.artefacts["images"].inputs.values())
        if shares_batches(run):
            synthesis, _ = name_recovered(run, networks, inputs, embeddings)
            for index, one in enumerate(passes):
                if planning and run.store.find(one) is not None:
                    continue  # its batches aren't needed any more
                for batch, of_pass in enumerate(name_batches(run, synthesis, index)):
                    make = partial(recover_slots, run, networks, inputs, embeddings, index=index, batches=[batch])
                    yield "recover", f"pass {index} batch {batch}", [of_pass], make
        elif keeps_state(run) or len(passes) == 1:
            yield "recover", "", passes, with_images(_leave)
        else:
            for index, one in enumerate(passes):
                make = partial(recover_pass, run, networks, inputs, embeddings, index=index)
                yield "recover", f"pass {index}", [one], make
    # no unit puts batches or passes together: the first that needs the images does, and a job takes longer to start
    if stores_labels(section):
        every = [one for several in students.values() for one in several]
        yield "evaluate", "", every, with_images(lambda images: evaluate(run, networks, images, section=section))
    else:
        for name, several in students.items():
            for k, one in enumerate(several):
                student = partial(train_one, run, networks, student=one, section=section, architecture=name, k=k)
                yield "evaluate", f"{name} {k}", [one], with_images(student)
    yield "measure", "", name_measures(run, networks, source), with_images(measure_all)


def _train(run: Run, role: Role, *, log: Path) -> None:
    ensure_network(run, role)


def _embed(run: Run, network: Artefact, *, log: Path) -> None:
    for split in ("train", "test"):
        make_embeddings(run, network, split=split)


def _measure_real(run: Run, network: Artefact, *, log: Path) -> None:
    measure_real(run, network, per_class=run.recipe.ipc)


def _leave(_: ImageSet) -> None:
    """Do nothing with images: making them was all."""


def _use_images(
    run: Run,
    networks: Networks,
    inputs: Inputs,
    embeddings: Mapping[str, Artefact],
    use: Callable[[ImageSet], object],
    *,
    log: Path,
) -> None:
    """Call `use` with the images of a run; their files are linked into a folder that is removed at the end."""
    folder = run.store.root / WORK / f"images-{uuid.uuid4().hex[:12]}"
    make_folder(folder)
    try:
        use(recover(run, networks, inputs, embeddings, folder=folder, log=log))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
