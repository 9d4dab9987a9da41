"""Estimate what units of work cost: operations, GPU memory, disk. Needs neither data nor upstream's code.

Operations are those of convolutions and matrix products. Where a dataset isn't here, a stand-in of its published size
takes its place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from types import MappingProxyType

from dire_plug.data import Dataset
from dire_plug.errors import DirePlugError
from dire_plug.files import digest, format_bytes
from dire_plug.pipeline.gpu_memory import count_inverted, count_own, count_role, count_synthesis, freezes, term_roles
from dire_plug.pipeline.network_costs import count_unrolled
from dire_plug.pipeline.rates import Rate
from dire_plug.pipeline.request import absence, check_sizes, count_images, plan_run, read_data, with_stand_in
from dire_plug.pipeline.run import section_of
from dire_plug.pipeline.work_units import units_of
from dire_plug.plugins import read_once
from dire_plug.recipe.check import CHOSEN, FULL
from dire_plug.recipe.evaluate import EvaluateSection, HardLabelsSection
from dire_plug.recipe.model import RDED
from dire_plug.stages.artefacts import (
    INDEPENDENT,
    MAIN,
    Role,
    name_inputs,
    name_networks,
    roles_frozen,
    roles_in_loop,
    roles_that_label,
)
from dire_plug.stages.evaluate import stores_labels
from dire_plug.stages.recover import MOST_BYTES
from dire_plug.stages.squeeze import all_roles
from dire_plug.store.runs import Request, Run
from dire_plug.store.units import Unit
from dire_plug.training.soft_labels import labels_bytes
from dire_plug.training.students import is_tested
from dire_plug.types import Slot
from dire_plug.types.artefact import Cost, add_up

LABELLED_ONCE = ("static-labels", "ensemble-labels")
"""Protocols that label each image once, not in every epoch."""
REAL = "real images in "
"""How the parts of embed begin that embed all real images."""
EXPERT_BATCH = 256
"""Images in a batch of the experts' training: upstream's default, which no recipe changes."""
TRAINED = 3
"""Tensors of the size of a network that trains: weights, gradients, and at least one moment of the optimizer."""
SAVED = 1 + 4
"""Bytes of a value of an image: one in the file, uncompressed, and four in the float32 tensor."""


def too_large(units: Iterable[Unit], costs: Mapping[str, Cost], rate: Rate) -> list[str]:
    """Return a line for each synthesis, or other unit, whose memory the rate's GPU doesn't have."""
    needed = {
        unit.label.partition(": pass ")[0]: costs[unit.name].memory
        for unit in units
        if rate.memory is not None and costs[unit.name].memory > rate.memory
    }
    return [
        f"doesn't fit into the {format_bytes(rate.memory or 0)} of {rate.what}: {name} needs at least "
        f"{format_bytes(memory)}"
        for name, memory in needed.items()
    ]


# Runs, with the data or with a stand-in.


@dataclass(frozen=True)
class PlannedRun:
    """A run, and what the store lacks of it; where its data aren't here, as if the store had nothing.

    Attributes:
        units: in an order in which they can be made.
        costs: name of a unit → its cost.
        absent: why it can't run here; "" where it can.
    """

    request: Request
    units: tuple[Unit, ...] = ()
    costs: Mapping[str, Cost] = field(default_factory=dict)
    absent: str = ""


def plan_costs(requests: Iterable[Request]) -> list[PlannedRun]:
    """Return every run once, with its units of work and their costs; nothing is run or fetched.

    Raises:
        DirePlugError: a recipe is faulty.
    """
    with read_once():
        plans = [plan_run(request, dry=True) for request in dict.fromkeys(requests)]
        # groupby joins neighbours only; each dataset is loaded once, and one is held at a time
        groups = groupby(sorted(plans, key=_data), key=_data)
        found = {one.request: one for _, group in groups for one in _plan_group(list(group))}
    return [found[planned.request] for planned in plans]


def _data(planned: Run) -> str:
    """Return a digest of all that decides which real images a run uses."""
    recipe = planned.recipe
    return digest([recipe.dataset.model_dump(), recipe.evaluate.judge, str(planned.request.data_root)])


def _plan_group(plans: Sequence[Run]) -> list[PlannedRun]:
    """Return the runs of one dataset."""
    data: Dataset | None = None
    try:
        data, absent = read_data(replace(plans[0], request=replace(plans[0].request, offline=True))), ""
    except DirePlugError as error:
        absent = " ".join(str(error).split())
    found = []
    for planned in plans:
        try:
            run = with_stand_in(planned) if data is None else replace(planned, data=data)
            check_sizes(run.resolved, run.dataset.size)
            units = units_of(run)
        except DirePlugError as error:
            found.append(PlannedRun(planned.request, absent=" ".join(str(error).split())))
            continue
        why = absent or ("" if planned.ready else absence(planned.adapter))
        # what the store has needs neither data nor code
        found.append(PlannedRun(planned.request, tuple(units), count_units(run, units), why if units else ""))
    return found


# Units.


def count_units(run: Run, units: Iterable[Unit]) -> dict[str, Cost]:
    """Return the name of each unit of a run → its cost."""
    found: dict[str, Cost] = {}
    memory: int | None = None
    for unit in units:
        if unit.stage == "recover":
            found[unit.name] = count_recover(run, unit.part, memory=memory)
            memory = found[unit.name].memory  # of its largest step, whichever part of it this is
        else:
            found[unit.name] = COUNTS[unit.stage](run, unit.part)
    return found


def count_squeeze(run: Run, name: str) -> Cost:
    """Return the cost of training a network, or of loading it."""
    (role,) = (one for one in all_roles(run) if one.name == name)
    section, one = role.section, count_role(run, role)
    if section.checkpoint is not None:
        return Cost(0, one.weights, one.weights)
    operations = section.epochs * len(run.dataset.train) * one.both
    return Cost(operations, section.batch_size * one.kept + TRAINED * one.weights, one.weights)


def count_prepare(run: Run, part: str = "") -> Cost:
    """Return the cost of what the loop needs first: experts, or a pass of the training images through the teachers."""
    inputs, pixels = name_inputs(run, name_networks(run)), 3 * run.dataset.size**2
    disk = run.classes * run.recipe.ipc * pixels if inputs.start else 0
    disk += 4 * pixels**2 if inputs.whitening else 0
    images, work = len(run.dataset.train), run.adapter.work(run.recipe)
    scored = _count_patches(run) if inputs.start and run.recipe.recover.start == RDED else 0
    scoring = scored * count_role(run, roles_in_loop(run)[0]).forward
    if not inputs.prepared:
        return Cost(scoring, 0, disk)
    if work is not None:
        one = count_own(run, work.network)
        memory = EXPERT_BATCH * one.kept + TRAINED * one.weights
        return Cost(work.prepared_epochs * images * one.both, memory, disk + work.prepared_epochs * one.weights)
    ranking = images * sum(count_role(run, role).forward for role in roles_in_loop(run))
    return Cost(scoring + ranking, 0, disk)


def count_embed(run: Run, part: str) -> Cost:
    """Return the cost of the embeddings of all real images in T or I, or of those rows that only terms see."""
    if part.startswith(REAL):
        (role,) = (one for one in all_roles(run) if one.name == {"T": MAIN, "I": INDEPENDENT}[part[-1]])
        return _embedding(run, role, len(run.dataset.train) + len(run.dataset.test))
    # T's own are there already, unless terms want them in train mode
    others = [role for role in term_roles(run) if role.name != MAIN or run.recipe.real.mode == "train"]
    return add_up(_embedding(run, role, len(run.dataset.train)) for role in others)


def _embedding(run: Run, role: Role, images: int) -> Cost:
    one = count_role(run, role)
    return Cost(images * one.forward, one.weights, images * 4 * one.width)


def count_recover(run: Run, part: str, *, memory: int | None = None) -> Cost:
    """Return the cost of passes of a synthesis, or of choosing real images.

    Args:
        memory: bytes of the largest step, where they are known already.
    """
    pixels = 3 * run.dataset.size**2
    if run.engine == "none":
        chosen = 0 if run.arm == FULL else run.classes * run.recipe.ipc
        teacher = count_role(run, roles_in_loop(run)[0])
        seen = len(run.dataset.train) if run.arm in CHOSEN else _count_patches(run) if run.arm == RDED else 0
        return Cost(seen * teacher.forward, teacher.weights if seen else 0, chosen * pixels * SAVED)
    _, index, _, batch = (*part.split(), *[""] * 4)[:4]
    passes = [int(index)] if index else range(run.plan.passes)
    batches = [int(batch)] if batch else range(run.plan.slots_per_pass)
    slots = Counter(len(run.plan.slot(Slot(one, batch)).labels) for one in passes for batch in batches)
    operations = run.adapter.steps(run.recipe.recover) * sum(_step(run, size) * slots[size] for size in slots)
    memory = memory or sum(count_synthesis(run, gpus=run.gpus).values())
    return Cost(operations, memory, sum(slots.elements()) * pixels * SAVED)


def _count_patches(run: Run) -> int:
    """Return how many patches of real images the teacher scores."""
    section = run.recipe.rded
    return run.classes * section.candidates(run.recipe.ipc, run.dataset.size) * section.num_crop


def _step(run: Run, images: int) -> float:
    """Return the operations of one step of a batch of so many images."""
    operations, work = 0.0, run.adapter.work(run.recipe)
    if work is None:
        loop = [count_role(run, role, inverted=freezes(run)) for role in roles_in_loop(run)]
        together = run.adapter.networks_in_step(run.recipe.recover)
        operations = images * sum(one.both for one in loop) / len(loop) * together
    elif work.unrolled:
        one = count_unrolled(
            architecture=work.network, outputs=run.classes, stem=run.script.stem, size=run.dataset.size
        )
        operations = work.unrolled * min(work.batch or images, images) * one.operations
    else:
        forward = count_own(run, work.network).forward
        operations = (2 * images + work.real * run.classes) * forward
    if run.regularizers:
        section = run.recipe.recover.embedder
        operations += images * sum(count_inverted(run, role).both for role in roles_frozen(run))
        if section is not None and section.network != "loop":
            share = (section.classes_per_step or run.classes) / run.classes
            operations += images * share * count_inverted(run, roles_in_loop(run)[0]).both
    return operations


def count_evaluate(run: Run, part: str) -> Cost:
    """Return the cost of one student of a run with its labels and tests, or of all that share stored labels."""
    section = section_of(run)
    if stores_labels(section):
        return count_students(run, section, section.students * section.per_synthesis, images=count_images(run))
    return count_students(run, section, [part.rpartition(" ")[0]], images=count_images(run))


def count_students(run: Run, section: EvaluateSection, students: Sequence[str], *, images: int) -> Cost:
    """Return the cost of students, by their architectures, that one process trains; stored labels are made once."""
    labelling, labels, stored = roles_that_label(run, section.protocol), 0.0, 0
    if not isinstance(section, HardLabelsSection):
        rounds = 1 if section.protocol in LABELLED_ONCE else section.epochs
        labels = rounds * images * sum(count_role(run, role).forward for role in labelling)
    if stores_labels(section):
        stored = labels_bytes(section, images=images, outputs=labelling[0].outputs)
        labels *= section.labels_kept
    else:
        labels *= len(students)
    tests = sum(is_tested(epoch, section) for epoch in range(section.epochs))
    networks = [count_own(run, name) for name in students]
    test = len(run.dataset.test) * sum(one.forward for one in networks)
    trained = section.epochs * images * sum(one.both for one in networks)
    batch = min(section.batch_size, images) // getattr(section, "accumulate", 1)
    memory = max(batch * one.kept + TRAINED * one.weights for one in networks)
    return Cost(labels + trained + tests * test, memory, stored, (section.epochs - tests) * test)


def count_measure(run: Run, part: str) -> Cost:
    """Return the cost of measuring the images in T and I, or what real images score; the latter embeds nothing."""
    if part:
        return Cost(0)
    images, size = count_images(run), 4 * 3 * run.dataset.size**2 * count_images(run)
    networks = [count_role(run, role) for role in all_roles(run) if role.name in (MAIN, INDEPENDENT)]
    # gathered tensors; whichever unit needs the images first leaves them
    gathered = size if run.engine != "none" and size <= MOST_BYTES else 0
    operations = images * sum(one.forward for one in networks)
    return Cost(operations, max(one.weights for one in networks), gathered)


COUNTS: Mapping[str, Callable[[Run, str], Cost]] = MappingProxyType(
    {
        "squeeze": count_squeeze,
        "prepare": count_prepare,
        "embed": count_embed,
        "evaluate": count_evaluate,
        "measure": count_measure,
    }
)
"""Stage → the cost of one of its units, by its part."""
