"""The costs of units of work: by the recipe's epochs, steps and images, without data."""

from dataclasses import replace
from typing import Any

import pytest

from dire_plug import plugins
from dire_plug.pipeline import Request, Run, plan_run
from dire_plug.pipeline.network_costs import count_pass, count_unrolled
from dire_plug.pipeline.rates import find_rate
from dire_plug.pipeline.request import with_stand_in
from dire_plug.pipeline.unit_costs import (
    count_embed,
    count_evaluate,
    count_measure,
    count_prepare,
    count_recover,
    count_squeeze,
    count_students,
    count_units,
    plan_costs,
    too_large,
)
from dire_plug.pipeline.work_units import units_of
from dire_plug.stages.artefacts import role_of_independent
from dire_plug.training.students import is_tested
from dire_plug.types.artefact import Cost, add_up


def planned(method: str, recipe: str, arm: str = "baseline", **more: Any) -> Run:
    return with_stand_in(plan_run(Request(method, recipe=recipe, arm=arm, **more), dry=True))


def test_a_synthesis_is_counted_by_its_steps_and_images() -> None:
    one = count_pass(architecture="resnet-18", outputs=100, stem="small", size=32, inverted=True)
    baseline, dire = (planned("sre2l", "cifar-100", arm, ipc=10) for arm in ("baseline", "dire"))
    passes = [count_recover(baseline, f"pass {index}") for index in range(10)]
    assert {one.operations for one in passes} == {passes[0].operations}
    # iterations × images, however they are grouped; DiRe's own products aren't counted
    assert sum(found.operations for found in passes) == 1000 * 1000 * one.both
    assert count_recover(dire, "").operations == 1000 * 1000 * one.both
    assert passes[0].memory == 100 * one.kept + one.weights + 3 * 100 * 3 * 32**2 * 4
    assert passes[0].disk == 100 * 3 * 32**2 * 5
    # gathered by the first unit that needs the images
    assert count_measure(baseline, "").disk == 1000 * 3 * 32**2 * 4


@pytest.mark.parametrize(
    ("recipe", "stem"), [("imagenette", "imagenet"), ("cifar-100", "small"), ("tiny-imagenet", "small")]
)
def test_the_independent_network_has_the_stem_of_its_datasets_size(recipe: str, stem: str) -> None:
    assert role_of_independent(planned("cv-dd", recipe, ipc=10)).stem == stem


def test_a_loop_that_trains_networks_is_counted_by_its_unrolled_steps() -> None:
    run = planned("mtt", "cifar-100", ipc=50)
    step = count_unrolled(architecture="convnet-3", outputs=100, stem="small", size=32)
    assert count_recover(run, "").operations == 5001 * 80 * 125 * step.operations
    experts = count_pass(architecture="convnet-3", outputs=100, stem="small", size=32)
    assert count_prepare(run).operations == 100 * 50 * 50_000 * experts.both
    assert count_prepare(run).memory == 256 * experts.kept + 3 * experts.weights
    given = planned("dm", "cifar-100", ipc=10)
    # the synthetic images there and back, 256 real ones of each class there
    assert count_recover(given, "").operations == 20_001 * (2 * 1000 + 256 * 100) * experts.forward


def test_training_is_counted_by_the_recipes_networks_and_images() -> None:
    def trained(*settings: str) -> float:
        return count_squeeze(planned("sre2l", "imagenet-1k", settings=settings), "independent").operations

    assert trained("dataset.limit=5000") == 0  # both networks of the recipe are published
    own = count_pass(architecture="resnet-18", outputs=1000, stem="imagenet", size=224).both
    own_training = ("squeeze.independent.checkpoint=null", "squeeze.independent.epochs=2", "dataset.limit=5000")
    given = (*own_training, "squeeze.independent.architecture=resnet-18")
    assert trained(*given) == 2 * 5000 * own
    assert trained(*given, "dataset.validation=1000") == 2 * 4000 * own
    averaged = count_pass(architecture="convnet-3", outputs=1000, stem="small", size=224, flat=False)
    assert trained(*own_training, "squeeze.independent.architecture=convnet-3") == 2 * 5000 * averaged.both


def test_students_are_tested_on_the_images_that_judge() -> None:
    def evaluated(*settings: str) -> float:
        given = ("evaluate.students=[convnet-3]", "evaluate.per_synthesis=1", *settings)
        return count_evaluate(planned("sre2l", "cifar-100", ipc=10, settings=given), "convnet-3 0").operations

    held_out = ("dataset.validation=1000", "evaluate.judge=validation")
    one = count_pass(architecture="convnet-3", outputs=100, stem="small", size=32)
    section = planned("sre2l", "cifar-100", ipc=10).recipe.evaluate
    tests = len({*range(section.test_from, section.epochs, section.test_every), section.epochs - 1})
    assert evaluated() - evaluated(*held_out) == tests * (10_000 - 1000) * one.forward
    assert evaluated(held_out[0]) == evaluated()


def test_tests_are_those_of_the_schedule_and_the_others_stand_beside() -> None:
    def evaluated(*schedule: str) -> Cost:
        given = ("evaluate.students=[convnet-3]", "evaluate.per_synthesis=1", "evaluate.epochs=100", *schedule)
        return count_evaluate(planned("sre2l", "cifar-100", ipc=10, settings=given), "convnet-3 0")

    one = count_pass(architecture="convnet-3", outputs=100, stem="small", size=32)
    every, tenth = (evaluated("evaluate.test_from=0", f"evaluate.test_every={n}") for n in (1, 10))
    assert every.untested == 0
    # after the epochs 0, 10, … 90, and the last
    assert tenth.untested == every.operations - tenth.operations == (100 - 11) * 10_000 * one.forward


def test_students_that_share_stored_labels_are_labelled_for_once() -> None:
    run = planned("sre2l", "imagenet-1k", ipc=10)
    one, two = (
        count_students(run, run.recipe.evaluate, ["resnet-18"] * count, images=10_000).operations for count in (1, 2)
    )
    student, teacher = (count_pass(architecture="resnet-18", outputs=1000, stem="imagenet", size=224) for _ in range(2))
    tests = sum(is_tested(epoch, run.recipe.evaluate) for epoch in range(300))
    alone = 300 * 10_000 * student.both + tests * 50_000 * student.forward
    assert two - one == alone
    assert one - alone == 300 * 10_000 * teacher.forward


def test_stored_labels_count_on_disk_with_the_students_that_share_them() -> None:
    found = count_evaluate(planned("sre2l", "imagenet-1k", ipc=10), "")
    labels = 300 * 10_000 * 1000 * 2
    assert labels < found.disk < 1.1 * labels


def test_all_real_images_are_embedded_once_in_each_network() -> None:
    run = planned("sre2l", "cifar-100", ipc=10)
    teacher = count_pass(architecture="resnet-18", outputs=100, stem="small", size=32, inverted=True)
    real = count_embed(run, "real images in T")
    assert (real.operations, real.disk) == (60_000 * teacher.forward, 60_000 * 4 * 512)
    assert count_measure(run, "real in T").operations == 0
    # what terms see are these rows
    assert count_embed(planned("sre2l", "cifar-100", "dire", ipc=10), "the rows of the terms").operations == 0


def test_networks_that_make_a_step_together_are_added_up() -> None:
    two, one = (
        count_recover(planned("cv-dd", "quick", settings=(f"recover.flags.selected-size={size}",)), "")
        for size in (2, 1)
    )
    assert two.operations == 2 * one.operations


def test_choosing_real_images_needs_no_synthesis() -> None:
    assert count_recover(planned("sre2l", "cifar-100", "random", ipc=10), "").operations == 0
    assert count_recover(planned("sre2l", "cifar-100", "herding", ipc=10), "").operations > 0
    assert count_recover(planned("sre2l", "cifar-100", "full", ipc=10), "").disk == 0


def test_rdeds_patches_are_scored_once_each_for_an_arm_and_for_a_start() -> None:
    teacher = count_pass(architecture="resnet-18", outputs=100, stem="small", size=32, inverted=True)
    scored = 100 * 300 * 5 * teacher.forward
    assert count_recover(planned("sre2l", "cifar-100", "rded", ipc=10), "").operations == scored
    start = planned("sre2l", "cifar-100", ipc=10, settings=("recover.start=rded",))
    assert count_prepare(start).operations == scored
    assert count_prepare(planned("sre2l", "cifar-100", ipc=10, settings=("recover.start=real",))).operations == 0


LARGE = ("infer", "g-vbsm")
"""Methods whose recipe has networks that take seconds to count."""


@pytest.mark.parametrize(
    "method",
    [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in plugins.known("methods")],
)
def test_every_unit_of_every_method_has_a_cost(bare_home: object, method: str) -> None:
    run = planned(method, "quick", "dire")
    units = units_of(run)
    costs = count_units(run, units)
    assert costs.keys() == {unit.name for unit in units}
    # of each stage the last unit
    by_stage = {
        unit.stage: costs[unit.name].operations for unit in units if (unit.stage, unit.part[:4]) != ("measure", "real")
    }
    assert min(by_stage[stage] for stage in ("squeeze", "recover", "evaluate", "measure")) > 0
    assert [one for one in costs.values() if one.memory < 0 or one.disk < 0] == []


def test_i_is_one_network_for_all_methods_of_a_dataset(bare_home: object) -> None:
    requests = [Request(method, recipe="cifar-10", ipc=10, arm="random") for method in ("sre2l", "dwa", "delt", "dm")]
    runs = plan_costs(requests)
    independent = {unit.name: unit for run in runs for unit in run.units if unit.part == "independent"}
    assert [len(run.units) > 1 for run in runs] == [True] * 4
    ((name, unit),) = independent.items()
    costs = {run.costs[name] for run in runs}
    assert unit.stage == "squeeze"
    assert len(costs) == 1


def test_an_absent_dataset_is_planned_by_its_published_size(bare_home: object) -> None:
    (run,) = plan_costs([Request("sre2l", recipe="cifar-10", arm="random", ipc=10)])
    assert "cifar-10 was not found" in run.absent
    assert run.costs.keys() == {unit.name for unit in run.units}


def test_a_unit_that_a_gpu_cannot_hold_is_named_with_the_numbers() -> None:
    run = planned("mtt", "cifar-100", ipc=10)
    units = units_of(run)
    costs = count_units(run, units)
    (line,) = too_large(units, costs, find_rate("rtx-4090"))
    assert line == (
        "doesn't fit into the 24.0 GB of one rtx-4090: mtt cifar-100, IPC 10: recover baseline, seed 0 needs at least "
        "59.2 GB"
    )
    assert too_large(units, costs, find_rate("h100")) == []
    assert too_large(units, costs, replace(find_rate("rtx-4090"), memory=None)) == []


def test_costs_add_up() -> None:
    assert add_up([Cost(1.0, 5, 2, 0.5), Cost(2.0, 3, 4, 0.25)]) == Cost(3.0, 5, 6, 0.75)
    assert add_up([]) == Cost(0.0)
