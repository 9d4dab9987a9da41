"""MTT's adapter: command lines, its experts, recipes that don't fit them, and its patch and a run where reachable."""

import math
from pathlib import Path
from typing import Any

import pytest
from support.cli import Cli
from support.matching_family import MTT_TINY, generated, inputs_of, options, problems_of, recover, write_experts
from support.upstreams import vendor_or_skip, verified

from dire_plug.errors import DirePlugError
from dire_plug.files import read_json
from dire_plug.methods.mtt import MTT, MTTFlags, check_experts, estimate, parameter_shapes, save_interval
from dire_plug.pipeline import Request, run_arm
from dire_plug.recipe import check_recipe, read_yaml
from dire_plug.recipe.loading import merge
from dire_plug.types import LoopInputs, ScriptInputs

W32 = MTTFlags(model="ConvNetW32", max_start_epoch=2, expert_epochs=1)


def loop(**flags: Any) -> LoopInputs:
    return inputs_of(recover(flags=flags), prepare={"experts": 3, "epochs": 9, "flags": {"mom": 0.5}})


def test_the_command_line_has_every_flag_in_upstreams_spelling() -> None:
    call = MTT().invocation(loop(zca=True, batch_syn=20))
    assert options(call.arguments) == {
        "--model": "ConvNet",
        "--Iteration": "5000",
        "--lr_img": "1000.0",
        "--lr_lr": "1e-05",
        "--lr_teacher": "0.01",
        "--batch_syn": "20",
        "--expert_epochs": "3",
        "--syn_steps": "20",
        "--max_start_epoch": "25",
        "--zca": "",
        "--dsa_strategy": "color_crop_cutout_flip_scale_rotate",
        "--dataset": "CIFAR10",
        "--ipc": "10",
        "--eval_mode": "S",
        "--num_eval": "0",
        "--eval_it": "5001",
        "--pix_init": "real",
        "--dsa": "True",
        "--data_path": "/run/inputs",
        "--buffer_path": "/run/inputs/buffers",
    }
    assert call.shims["files"] == {"links": {"logged_files": "/run/images/upstream"}}


def test_all_images_at_once_are_a_flag_that_is_left_out() -> None:
    assert "--batch_syn" not in MTT().invocation(loop()).arguments


def test_experts_are_trained_by_upstreams_own_buffer() -> None:
    (found,) = MTT().preparations(loop(model="ConvNetW32"))
    given = options(found.invocation.arguments)
    assert found.invocation.script == "buffer.py"
    assert (given["--num_experts"], given["--train_epochs"], given["--save_interval"]) == ("3", "9", "3")
    assert (given["--model"], given["--mom"], given["--buffer_path"]) == ("ConvNetW32", "0.5", "/run/images")
    assert "--zca" not in given
    assert "cpu_copy" in found.invocation.shims


def test_experts_are_shared_by_seeds_and_teachers_and_not_by_whitening() -> None:
    (plain,), (white,) = MTT().preparations(loop()), MTT().preparations(loop(zca=True))
    assert not plain.asks_teachers
    assert plain.key != white.key
    assert plain.invocation.shims["clock"] == {"seed": 0}


def test_the_published_experts_take_six_and_a_half_gigabytes() -> None:
    said = estimate(MTTFlags(), classes=10, experts=100, epochs=50, images=50_000)
    assert said.startswith("100 experts × 50 epochs, 6.5 GB on disk, about ")
    assert sum(map(math.prod, parameter_shapes("ConvNet", 10))) == 320_010


@pytest.mark.parametrize(("experts", "interval"), [(1, 1), (3, 3), (10, 10), (11, 1), (100, 10), (12, 6)])
def test_no_expert_is_lost_in_a_file_that_never_gets_full(experts: int, interval: int) -> None:
    assert save_interval(experts) == interval


def test_the_loop_finds_the_prepared_experts_where_it_looks(tmp_path: Path) -> None:
    inputs = inputs_of(recover(), tmp_path, prepared={"experts": tmp_path / "made"})
    (tmp_path / "made/CIFAR10_NO_ZCA/ConvNet").mkdir(parents=True)
    MTT().write_inputs(inputs, ScriptInputs({}, generated()))
    link = inputs.folder / "buffers/CIFAR10_NO_ZCA/ConvNet"
    assert link.resolve() == (tmp_path / "made/CIFAR10_NO_ZCA/ConvNet").resolve()


def test_experts_are_labelled_with_what_they_are_trained_on(tmp_path: Path) -> None:
    inputs, dataset = inputs_of(recover(flags={"zca": True}), tmp_path), generated()
    MTT().write_inputs(inputs, ScriptInputs({}, dataset))
    known = {"dataset": "generated", "zca": True, "model": "ConvNet", "digest": dataset.digest}
    assert read_json(inputs.images / "CIFAR10/ConvNet/experts.json") == known


def test_given_experts_that_fit_are_used(tmp_path: Path) -> None:
    folder = write_experts(tmp_path / "given")
    section = recover(flags={"model": "ConvNetW32", "max_start_epoch": 2, "expert_epochs": 1})
    inputs = inputs_of(section, tmp_path, prepare={"buffers": str(folder)})
    assert MTT().preparations(inputs) == ()
    MTT().write_inputs(inputs, ScriptInputs({}, generated()))
    assert (inputs.folder / "buffers/CIFAR10_NO_ZCA/ConvNetW32").resolve() == folder.resolve()


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"dataset": "cifar-10"}, "of dataset 'cifar-10', not 'generated'"),
        ({"zca": True}, "of zca True, not False"),
        ({"digest": "0"}, "saw other images of generated"),
        ({"classes": 100}, r"isn't of ConvNetW32 with 10 classes: its last parameter has the shape \[100\]"),
        ({"snapshots": 2}, "has 1 epochs; max_start_epoch 2 and expert_epochs 1 need 2"),
    ],
)
def test_given_experts_that_do_not_fit_are_refused(tmp_path: Path, written: dict[str, Any], message: str) -> None:
    folder = write_experts(tmp_path / "given", **written)
    with pytest.raises(DirePlugError, match=message):
        check_experts(folder, dataset=generated(), flags=W32)


def test_a_folder_that_does_not_say_what_its_experts_saw_is_refused(tmp_path: Path) -> None:
    folder = write_experts(tmp_path / "given")
    (folder / "experts.json").unlink()
    with pytest.raises(DirePlugError, match=r"lacks experts\.json, which says what the experts were trained on"):
        check_experts(folder, dataset=generated(), flags=W32)


def test_what_is_no_file_of_experts_is_refused(tmp_path: Path) -> None:
    folder = write_experts(tmp_path / "given")
    (folder / "replay_buffer_0.pt").write_bytes(b"text")
    with pytest.raises(DirePlugError, match=r"isn't a file of MTT's buffer\.py"):
        check_experts(folder, dataset=generated(), flags=W32)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"prepare__epoch": 3}, "prepare.epoch: unknown key (did you mean 'epochs'?)"),
        ({"prepare__flags": {"moment": 1}}, "prepare.flags.moment: unknown key"),
        ({"prepare__epochs": 2}, "prepare.epochs: max_start_epoch 5 and expert_epochs 1 reach to epoch 5 (is 2)"),
        ({"recover__flags": {"zca": True}}, "evaluate.whiten: the loop's images are whitened; set it to true"),
        ({"recover__flags": {"dsa": "True"}}, "recover.flags.dsa: can't be set in a recipe: set `dsa_strategy`"),
    ],
)
def test_what_does_not_fit_is_told_with_its_place(changes: dict[str, Any], line: str) -> None:
    found = problems_of(MTT(), **changes)
    assert len(found) == 1
    assert found[0].startswith(line)


def test_saved_pixels_may_be_read_in_either_space() -> None:
    tree = merge(read_yaml(MTT().recipes() / "quick.yaml"), {"recover": {"flags": {"zca": True}}})
    check_recipe(merge(tree, {"evaluate": {"source": "saved"}}), adapter=MTT())
    check_recipe(merge(tree, {"evaluate": {"source": "saved", "whiten": True}}), adapter=MTT())


def test_buffers_and_the_training_of_experts_exclude_each_other() -> None:
    (line,) = problems_of(MTT(), prepare__buffers="x")
    assert "buffers are trained already; remove epochs, experts" in line


@pytest.mark.parametrize("said", [{"dataset": "cifar-10"}, {"dataset": "digits", "zca": True}])
def test_experts_of_another_dataset_or_whitening_end_a_run_early(
    cli: Cli, tmp_path: Path, bare_home: Path, said: dict[str, Any]
) -> None:
    experts = write_experts(tmp_path / "given", **said)
    recipe = tmp_path / "recipe.yaml"
    text = (MTT().recipes() / "quick.yaml").read_text()
    first, last = text.index("\nprepare:"), text.index("\nrecover:")
    text = text[:first] + f"\nprepare:\n  buffers: {experts}\n" + text[last:]
    recipe.write_text("\n".join(line for line in text.splitlines() if not line.startswith("  prepare")))
    answer = cli("run", "mtt", "--recipe", recipe)
    assert answer.code == 2
    assert f"prepare.buffers: {experts}: these experts are of" in answer.err
    assert not bare_home.exists()


@pytest.mark.slow
@pytest.mark.upstream
@pytest.mark.parametrize("script", ["cifar-10", pytest.param("cifar-100", marks=pytest.mark.every_script)])
def test_the_patch_of_mtt_is_inert_and_reaches_the_loss(script: str, tmp_path: Path, bare_home: Path) -> None:
    verdict = verified(MTT(), script, tmp_path)
    assert (verdict.steps, verdict.files) == (6, 2)


@pytest.mark.slow
@pytest.mark.upstream
def test_a_whole_run_of_mtt_with_dire_keeps_the_learned_rate(bare_home: Path) -> None:
    vendor_or_skip(MTT())
    settings = tuple(f"{key}={value}" for key, value in MTT_TINY.items())
    run = run_arm(Request("mtt", arm="dire", settings=settings)).folder.path
    assert len(list((run / "images").glob("new*/*.png"))) == 20
    assert read_json(run / "metrics.json")["extras"]["learned_lr"] > 0
