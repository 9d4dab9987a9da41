"""Estimate what a unit of work costs: operations, GPU memory, disk. Needs neither data nor upstream's code.

Operations are those of convolutions and matrix products; a stand-in of the dataset's published size takes its place.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from dire_plug.pipeline.gpu_memory import count_inverted, count_own, count_role, count_synthesis, freezes, term_roles
from dire_plug.pipeline.network_costs import ImageCost, count_unrolled
from dire_plug.pipeline.request import plan_run, with_stand_in
from dire_plug.pipeline.run import section_of
from dire_plug.pipeline.work_units import MAKER, Unit, request_of
from dire_plug.recipe.evaluate import HardLabelsSection
from dire_plug.stages.artefacts import (
    FULL,
    INDEPENDENT,
    MAIN,
    SEVERAL,
    Role,
    name_inputs,
    name_networks,
    roles_frozen,
    roles_in_loop,
)
from dire_plug.stages.evaluate import stores_labels
from dire_plug.stages.recover import MOST_BYTES
from dire_plug.stages.squeeze import all_roles
from dire_plug.store.runs import Request, Run
from dire_plug.training.stored_batches import epoch_bytes
from dire_plug.types import Slot

LABELLED_ONCE = ("static-labels", "ensemble-labels")
"""Protocols that label each image once, not in every epoch."""
REAL = "real images in "
"""How the parts of embed begin that embed all real images."""
TRAINED = 3
"""Tensors of the size of a network that trains: weights, gradients, and at least one moment of the optimizer."""
SAVED = 1 + 4
"""Bytes of a value of an image: one in the file, uncompressed, and four in the float32 tensor."""
OPERATIONS_PER_SECOND = 10e12
"""The rate at which times are stated where none was measured: assumed, about half of what an A100 can do in float32."""


@dataclass(frozen=True)
class UnitCost:
    """The estimate of one unit.

    Attributes:
        operations: of convolutions and products.
        memory: bytes on the device of the largest step, at least.
        disk: bytes of what it leaves, at most; stored labels go when the last student is trained.
    """

    operations: float
    memory: int = 0
    disk: int = 0


def add_up(costs: Iterable[UnitCost]) -> UnitCost:
    """Return the cost of units together: the sum of their operations and of their disk, the largest memory."""
    found = [UnitCost(0.0), *costs]
    operations, disk = sum(one.operations for one in found), sum(one.disk for one in found)
    return UnitCost(operations, max(one.memory for one in found), disk)


def count_units(units: Iterable[Unit]) -> dict[str, UnitCost]:
    """Return the name of each unit of runs → its cost; those of sets from outside are left out."""
    of_runs = (unit for unit in units if unit.maker == MAKER)
    return {unit.name: count_unit(_planned(request_of(unit)), unit.stage, unit.part) for unit in of_runs}


@lru_cache(maxsize=512)
def _planned(request: Request) -> Run:
    return with_stand_in(plan_run(request, dry=True))


def count_unit(run: Run, stage: str, part: str) -> UnitCost:
    """Return the cost of a unit, by its stage and part as in `Unit`."""
    if stage == "prepare":
        return count_prepare(run)
    counts = {
        "squeeze": count_squeeze,
        "embed": count_embed,
        "recover": count_recover,
        "evaluate": count_evaluate,
        "measure": count_measure,
    }
    return counts[stage](run, part)


def count_squeeze(run: Run, name: str) -> UnitCost:
    """Return the cost of training a network, or of loading it."""
    (role,) = (one for one in all_roles(run) if one.name == name)
    section, one = role.section, count_role(run, role)
    if section.checkpoint is not None:
        return UnitCost(0, one.weights, one.weights)
    operations = section.epochs * len(run.dataset.train) * one.both
    return UnitCost(operations, section.batch_size * one.kept + TRAINED * one.weights, one.weights)


def count_prepare(run: Run) -> UnitCost:
    """Return the cost of what the loop needs first: experts, or a pass of the training images through the teachers."""
    inputs, pixels = name_inputs(run, name_networks(run)), 3 * run.dataset.size**2
    disk = run.classes * run.recipe.ipc * pixels if inputs.start else 0
    disk += 4 * pixels**2 if inputs.whitening else 0
    images, work = len(run.dataset.train), run.adapter.work(run.recipe)
    if not inputs.prepared:
        return UnitCost(0, 0, disk)
    if work is not None:
        one = count_own(run, work.network)
        return UnitCost(work.prepared_epochs * images * one.both, 0, disk + work.prepared_epochs * one.weights)
    return UnitCost(images * sum(count_role(run, role).forward for role in roles_in_loop(run)), 0, disk)


def count_embed(run: Run, part: str) -> UnitCost:
    """Return the cost of the embeddings of all real images in T or I, or of those rows that only terms see."""
    if part.startswith(REAL):
        (role,) = (one for one in all_roles(run) if one.name == {"T": MAIN, "I": INDEPENDENT}[part[-1]])
        return _embedding(run, role, len(run.dataset.train) + len(run.dataset.test))
    # T's own are there already, unless terms want them in train mode
    others = [role for role in term_roles(run) if role.name != MAIN or run.recipe.real.mode == "train"]
    return add_up(_embedding(run, role, len(run.dataset.train)) for role in others)


def _embedding(run: Run, role: Role, images: int) -> UnitCost:
    one = count_inverted(run, role)
    return UnitCost(images * one.forward, one.weights, images * 4 * one.width)


def count_recover(run: Run, part: str) -> UnitCost:
    """Return the cost of passes of a synthesis, or of choosing real images."""
    pixels = 3 * run.dataset.size**2
    if run.engine == "none":
        chosen = 0 if run.arm == FULL else run.classes * run.recipe.ipc
        teacher = count_inverted(run, roles_in_loop(run)[0])
        embedded = len(run.dataset.train) if run.arm in ("herding", "k-center", "k-means") else 0
        return UnitCost(embedded * teacher.forward, teacher.weights if embedded else 0, chosen * pixels * SAVED)
    _, index, _, batch = (*part.split(), *[""] * 4)[:4]
    passes = [int(index)] if index else range(run.plan.passes)
    batches = [int(batch)] if batch else range(run.plan.slots_per_pass)
    slots = [len(run.plan.slot(Slot(one, batch)).labels) for one in passes for batch in batches]
    steps = run.adapter.steps(run.recipe.recover)
    operations = steps * sum(_step(run, images) for images in slots)
    return UnitCost(operations, _memory(run.request), sum(slots) * pixels * SAVED)


@lru_cache(maxsize=512)
def _memory(request: Request) -> int:
    """Return the bytes of the largest step of a synthesis: those of all of its passes."""
    return sum(count_synthesis(_planned(request)).values())


def _step(run: Run, images: int) -> float:
    """Return the operations of one step of a batch of so many images."""
    operations, work = 0.0, run.adapter.work(run.recipe)
    if work is None:
        loop = [count_role(run, role, inverted=freezes(run)) for role in roles_in_loop(run)]
        operations = images * sum(one.both for one in loop) / len(loop)
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


def count_images(run: Run) -> int:
    """Return the number of images that students learn from."""
    if run.engine != "none":
        return run.classes * run.plan.ipc
    return len(run.dataset.train) if run.arm == FULL else run.classes * run.recipe.ipc


def count_evaluate(run: Run, part: str) -> UnitCost:
    """Return the cost of one student with its labels and tests, or of all that share stored labels."""
    section: Any = section_of(run)
    images, loop = count_images(run), [count_role(run, role) for role in roles_in_loop(run)]
    labels = 0.0
    if not isinstance(section, HardLabelsSection):
        labelling = loop if section.protocol in SEVERAL else loop[:1]
        rounds = 1 if section.protocol in LABELLED_ONCE else section.epochs
        labels = rounds * images * sum(one.forward for one in labelling)
    if not stores_labels(section):
        return _student(run, section, part.rpartition(" ")[0], labels=labels)
    students = [_student(run, section, name, labels=0) for name in section.students]
    stored = section.epochs * epoch_bytes(images, -(-images // section.batch_size), run.recipe.squeeze.outputs)
    operations = labels + section.per_synthesis * sum(one.operations for one in students)
    return UnitCost(operations, max(one.memory for one in students), stored)


def _student(run: Run, section: Any, name: str, *, labels: float) -> UnitCost:
    one: ImageCost = count_own(run, name)
    # the last epoch is always tested
    tests = len({*range(section.test_from, section.epochs, section.test_every), section.epochs - 1})
    operations = labels + section.epochs * count_images(run) * one.both + tests * len(run.dataset.test) * one.forward
    batch = section.batch_size // getattr(section, "accumulate", 1)
    return UnitCost(operations, batch * one.kept + TRAINED * one.weights)


def count_measure(run: Run, part: str) -> UnitCost:
    """Return the cost of measuring the images in T and I, or what real images score; the latter embeds nothing."""
    if part:
        return UnitCost(0)
    images, size = count_images(run), 4 * 3 * run.dataset.size**2 * count_images(run)
    networks = [count_inverted(run, role) for role in all_roles(run) if role.name in (MAIN, INDEPENDENT)]
    # gathered tensors; whichever unit needs the images first leaves them
    gathered = size if run.engine != "none" and size <= MOST_BYTES else 0
    operations = images * sum(one.forward for one in networks)
    return UnitCost(operations, max(one.weights for one in networks), gathered)
