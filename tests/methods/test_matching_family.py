"""What MTT and DM share, and what sets them apart: plans, flags, command lines, inputs, and bad recipes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from support.matching_family import generated, inputs_of, options, problems_of, recover

from dire_plug.errors import DirePlugError
from dire_plug.methods.dm import DM
from dire_plug.methods.matching_family import DATA
from dire_plug.methods.mtt import MTT
from dire_plug.recipe import read_yaml
from dire_plug.types import ScriptInputs, Slot

BOTH = [MTT(), DM()]
either = pytest.mark.parametrize("adapter", BOTH, ids=lambda adapter: adapter.name)


@either
def test_all_images_are_one_batch_class_by_class(adapter: MTT | DM) -> None:
    plan = adapter.plan(recover(), classes=10, ipc=3)
    assert (plan.passes, plan.slots_per_pass, plan.ipc) == (1, 1, 3)
    slot = plan.slot(Slot(0, 0))
    assert slot.labels[:4] == (0, 0, 0, 1)
    assert slot.images[:4] == (0, 1, 2, 0)


@either
def test_another_number_of_classes_is_refused(adapter: MTT | DM) -> None:
    with pytest.raises(DirePlugError, match="'cifar-100' knows 100 classes, the dataset has 10"):
        adapter.plan(recover("cifar-100"), classes=10, ipc=1)


@either
def test_iterations_are_counted_from_zero_to_the_flag(adapter: MTT | DM) -> None:
    assert adapter.steps(recover(flags={"Iteration": 5})) == 6


@either
def test_upstreams_own_start_is_left_alone_whatever_it_is(adapter: MTT | DM) -> None:
    nothing: Any = None
    assert adapter.initial_images(nothing, Slot(0, 0), torch.zeros(1), torch.zeros(1)) is None


@pytest.mark.parametrize(("script", "name"), [("cifar-10", "CIFAR10"), ("cifar-100", "CIFAR100")])
@either
def test_evaluations_in_the_loop_train_no_network(adapter: MTT | DM, script: str, name: str) -> None:
    given = options(adapter.invocation(inputs_of(recover(script))).arguments)
    assert (given["--dataset"], given["--num_eval"], given["--ipc"]) == (name, "0", "10")


@either
def test_the_data_is_written_for_the_shim_that_serves_it(adapter: MTT | DM, tmp_path: Path) -> None:
    inputs = inputs_of(recover(), tmp_path)
    adapter.write_inputs(inputs, ScriptInputs({}, generated()))
    assert adapter.invocation(inputs).shims["cifar"] == {"file": str(inputs.folder / DATA)}
    with safe_open(str(inputs.folder / DATA), framework="pt") as file:
        assert file.get_slice("train.images").get_shape() == [10, 3, 32, 32]
        assert file.get_tensor("test.labels").tolist() == list(range(10))
        assert json.loads(file.metadata()["classes"])[9] == "class 9"


@either
def test_images_of_another_size_are_refused_before_the_script_starts(adapter: MTT | DM, tmp_path: Path) -> None:
    with pytest.raises(DirePlugError, match=r"are 8 pixels wide, .* reads 32; set dataset\.size=32"):
        adapter.write_inputs(inputs_of(recover(), tmp_path), ScriptInputs({}, generated(8)))


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"recover__embedder": None}, "recover.embedder: is missing: the loop holds no trained network"),
        ({"recover__plan": {"per_class": 2}}, "recover.plan: all images share one batch already"),
        ({"recover__bank": True}, "recover.bank: all images of a class are in the loop at once"),
        ({"dataset__size": 16}, "dataset.size: the script reads images of 32×32; set it to 32"),
        ({"recover__flags": {"data_path": "x"}}, "recover.flags.data_path: can't be set in a recipe: the tool chooses"),
        ({"recover__flags": {"num_eval": 5}}, "recover.flags.num_eval: can't be set in a recipe: upstream's evalu"),
        ({"evaluate__whiten": True}, "evaluate.whiten: "),
    ],
)
@either
def test_what_does_not_fit_is_told_with_its_place(adapter: MTT | DM, changes: dict[str, Any], line: str) -> None:
    found = problems_of(adapter, **changes)
    assert len(found) == 1
    assert found[0].startswith(line)


@pytest.mark.parametrize("name", ["cifar-10", "cifar-100"])
@either
def test_a_papers_recipe_has_every_ipc_of_table_13(adapter: MTT | DM, name: str) -> None:
    assert list(read_yaml(adapter.recipes() / f"{name}.yaml")["by_ipc"]) == ["1", "10", "50"]
