"""The costs of units of work: by the recipe's epochs, steps and images, without data."""

from typing import Any

import pytest

from dire_plug import plugins
from dire_plug.pipeline import Request, Run, plan_run
from dire_plug.pipeline.network_costs import count_pass, count_unrolled
from dire_plug.pipeline.request import with_stand_in
from dire_plug.pipeline.unit_costs import (
    UnitCost,
    add_up,
    count_embed,
    count_evaluate,
    count_measure,
    count_prepare,
    count_recover,
    count_squeeze,
    count_units,
)
from dire_plug.pipeline.work_units import units_of


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


def test_a_loop_that_trains_networks_is_counted_by_its_unrolled_steps() -> None:
    run = planned("mtt", "cifar-100", ipc=50)
    step = count_unrolled(architecture="convnet-3", outputs=100, stem="small", size=32)
    assert count_recover(run, "").operations == 5001 * 80 * 125 * step.operations
    experts = count_pass(architecture="convnet-3", outputs=100, stem="small", size=32)
    assert count_prepare(run).operations == 100 * 50 * 50_000 * experts.both
    given = planned("dm", "cifar-100", ipc=10)
    # the synthetic images there and back, 256 real ones of each class there
    assert count_recover(given, "").operations == 20_001 * (2 * 1000 + 256 * 100) * experts.forward


def test_training_is_counted_by_the_recipes_networks_and_images() -> None:
    def trained(*settings: str) -> float:
        return count_squeeze(planned("sre2l", "imagenet-1k", settings=settings), "independent").operations

    assert trained("dataset.limit=5000") == 0  # both networks of the recipe are published
    network = {"architecture": "resnet-18", "outputs": 1000, "size": 224}
    own, of_the_script = (count_pass(**network, stem=stem).both for stem in ("small", "imagenet"))
    assert own > 10 * of_the_script
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


def test_choosing_real_images_needs_no_synthesis() -> None:
    assert count_recover(planned("sre2l", "cifar-100", "random", ipc=10), "").operations == 0
    assert count_recover(planned("sre2l", "cifar-100", "herding", ipc=10), "").operations > 0
    assert count_recover(planned("sre2l", "cifar-100", "full", ipc=10), "").disk == 0


LARGE = ("infer", "g-vbsm")
"""Methods whose recipe has networks that take seconds to count."""


@pytest.mark.parametrize(
    "method",
    [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in plugins.known("methods")],
)
def test_every_unit_of_every_method_has_a_cost(bare_home: object, method: str) -> None:
    units = units_of(planned(method, "quick", "dire"))
    costs = count_units(units)
    assert costs.keys() == {unit.name for unit in units}
    # of each stage the last unit
    by_stage = {
        unit.stage: costs[unit.name].operations for unit in units if (unit.stage, unit.part[:4]) != ("measure", "real")
    }
    assert min(by_stage[stage] for stage in ("squeeze", "recover", "evaluate", "measure")) > 0
    assert [one for one in costs.values() if one.memory < 0 or one.disk < 0] == []


def test_costs_add_up() -> None:
    assert add_up([UnitCost(1.0, 5, 2), UnitCost(2.0, 3, 4)]) == UnitCost(3.0, 5, 6)
    assert add_up([]) == UnitCost(0.0)
