"""Units of work: the pieces that runs consist of, what each of them waits for, and how one is made by itself.

A unit makes artefacts that the store lacks. Its name follows from what it makes, so the units of several runs, arms and
tables that would make the same are one. A worker names the artefacts of its run again before it starts; where they are
others than those it was asked for, because the code or the data changed in between, it refuses.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dire_plug.errors import DirePlugError
from dire_plug.files import digest, make_folder
from dire_plug.pipeline.request import plan_run, with_data
from dire_plug.pipeline.run import name_measures, section_of
from dire_plug.stages.artefacts import (
    Inputs,
    Networks,
    keeps_state,
    name_inputs,
    name_network,
    name_networks,
    name_recovered,
    name_source,
    name_students,
    name_term_embeddings,
)
from dire_plug.stages.collapse_check import check_collapse
from dire_plug.stages.embed import embed
from dire_plug.stages.evaluate import evaluate, stores_labels, train_one
from dire_plug.stages.images import ImageSet
from dire_plug.stages.measure import measure
from dire_plug.stages.prepare import prepare
from dire_plug.stages.recover import recover, recover_pass
from dire_plug.stages.squeeze import all_roles, check_outputs, ensure_network
from dire_plug.store.artefacts import ENTRY, Artefact
from dire_plug.store.runs import Request, Run

TOGETHER = "all passes together"
"""The part of recover that gathers the finished passes of a synthesis."""


@dataclass(frozen=True)
class Unit:
    """A piece of work that one process does by itself.

    Attributes:
        request: of the run that it belongs to; of several, the first.
        stage: squeeze, prepare, embed, recover, evaluate or measure.
        part: which network, pass or student; "" where the stage is one unit.
        makes: the names of the artefacts that it makes.
        needs: the names of those that it is made from.
    """

    request: Request
    stage: str
    part: str
    makes: tuple[str, ...]
    needs: frozenset[str]

    @property
    def name(self) -> str:
        """`<stage>-<12 hex of what it makes>`."""
        return f"{self.stage}-{digest(sorted(self.makes))[:12]}"

    @property
    def title(self) -> str:
        """The name of the unit for people, such as `evaluate dire, seed 1: convnet 0`."""
        of_run = "" if self.stage in ("squeeze", "embed") else f" {self.request.arm}, seed {self.request.seed}"
        return f"{self.stage}{of_run}{':' if of_run and self.part else ''}{f' {self.part}' if self.part else ''}"


def plan_units(requests: Iterable[Request]) -> list[Unit]:
    """Return what the store lacks of some runs, each unit once, in an order in which they can be made.

    Raises:
        DirePlugError: a request is bad, or its data aren't there.
    """
    found: dict[str, Unit] = {}
    for request in requests:
        for unit in units_of(with_data(plan_run(request))):
            found.setdefault(unit.name, unit)
    return list(found.values())


def units_of(run: Run) -> list[Unit]:
    """Return the units that the store lacks for one run, in the order of the stages."""
    return [unit for unit in _all_units(run) if unit.makes]


def _all_units(run: Run) -> Iterator[Unit]:
    def unit(stage: str, part: str, makes: Iterable[Artefact]) -> Unit:
        missing = {one.name: one for one in makes if run.store.find(one) is None}
        behind = {name for one in missing.values() for name in one.closure()}
        return Unit(run.request, stage, part, tuple(missing), frozenset(behind - missing.keys()))

    networks = name_networks(run)
    inputs = name_inputs(run, networks)
    embeddings = name_term_embeddings(run, networks, inputs)
    source = name_source(run, networks, inputs, embeddings)
    section = section_of(run)
    students = name_students(run, networks, source, section)
    for role in all_roles(run):
        yield unit("squeeze", role.name, [name_network(run, role)])
    yield unit("prepare", "", inputs.all.values())
    yield unit("embed", "", embeddings.values())
    if run.engine == "none":
        yield unit("recover", "", source.artefacts.values())
    else:
        _, passes = name_recovered(run, networks, inputs, embeddings)
        if keeps_state(run) or len(passes) == 1:
            yield unit("recover", "", passes)
        else:
            for index, one in enumerate(passes):
                yield unit("recover", f"pass {index}", [one])
        yield unit("recover", TOGETHER, source.artefacts.values())
    if stores_labels(section):
        yield unit("evaluate", "", [one for several in students.values() for one in several])
    else:
        for architecture, several in students.items():
            for k, one in enumerate(several):
                yield unit("evaluate", f"{architecture} {k}", [one])
    yield unit("measure", "", name_measures(run, networks, source))


def make_unit(request: Request, stage: str, part: str, makes: Sequence[str], *, log: Path) -> None:
    """Make one unit by itself; what of it is there already isn't made again.

    Args:
        stage, part, makes: as in `Unit`.
        log: receives what upstream's script prints.

    Raises:
        DirePlugError: what the unit would make isn't what was asked for; or a stage failed.
    """
    run = with_data(plan_run(request))
    here = next((one for one in _all_units(run) if (one.stage, one.part) == (stage, part)), None)
    there = {name for name in makes if (run.store.root / name / ENTRY).is_file()}
    if missing := set(makes) - there - set(here.makes if here else ()):
        raise DirePlugError(
            f"{stage} {part}: the code, the data or the recipe changed after this was planned, so {sorted(missing)[0]} "
            "would be something else now; run the command again"
        )
    if here is None or not here.makes:
        return
    networks = name_networks(run)
    inputs = name_inputs(run, networks)
    embeddings = name_term_embeddings(run, networks, inputs)
    if stage == "squeeze":
        check_outputs(run)
        ensure_network(run, next(role for role in all_roles(run) if role.name == part))
    elif stage == "prepare":
        prepare(run, networks)
    elif stage == "embed":
        embed(run, networks, inputs)
    elif stage == "recover" and part.startswith("pass "):
        recover_pass(run, networks, inputs, embeddings, index=int(part.removeprefix("pass ")), log=log)
    else:
        _make_with_images(run, networks, inputs, embeddings, stage=stage, part=part, log=log)


def _make_with_images(
    run: Run,
    networks: Networks,
    inputs: Inputs,
    embeddings: Mapping[str, Artefact],
    *,
    stage: str,
    part: str,
    log: Path,
) -> None:
    """Make what needs the images of a run; their files are linked into a folder that is removed at the end."""
    folder = run.store.root / "work" / f"images-{uuid.uuid4().hex[:12]}"
    make_folder(folder)
    try:
        images: ImageSet = recover(run, networks, inputs, embeddings, folder=folder, log=log)
        if stage == "evaluate" and part:
            architecture, _, k = part.rpartition(" ")
            train_one(run, networks, images, section=section_of(run), architecture=architecture, k=int(k))
        elif stage == "evaluate":
            evaluate(run, networks, images, section=section_of(run))
        elif stage == "measure":
            if images.synthesized:
                check_collapse(run, networks, images)
            measure(run, networks, images)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
