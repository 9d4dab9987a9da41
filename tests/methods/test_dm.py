"""DM's adapter: the command line, the IPCs that its script knows, and its patch and a run where it can be reached."""

from pathlib import Path

import pytest
from support.cli import Cli
from support.matching_family import DM_TINY, inputs_of, options, problems_of, recover
from support.upstreams import vendor_or_skip, verified

from dire_plug.files import read_json
from dire_plug.methods.dm import DM
from dire_plug.pipeline import Request, run_arm


def test_the_command_line_has_every_flag_in_upstreams_spelling() -> None:
    call = DM().invocation(inputs_of(recover()))
    assert options(call.arguments) == {
        "--model": "ConvNet",
        "--Iteration": "20000",
        "--lr_img": "1.0",
        "--batch_real": "256",
        "--dsa_strategy": "color_crop_cutout_flip_scale_rotate",
        "--dataset": "CIFAR10",
        "--ipc": "10",
        "--eval_mode": "S",
        "--num_eval": "0",
        "--num_exp": "1",
        "--init": "real",
        "--data_path": "/run/inputs",
        "--save_path": "/run/images/upstream",
    }
    assert set(call.shims) == {"device", "torch_load", "network", "cifar", "clock", "loader", "setitem_alias"}
    assert call.shims["clock"] == {"seed": 7}


def test_each_dataset_is_normalised_as_the_script_does() -> None:
    assert DM.scripts["cifar-10"].std == (0.2023, 0.1994, 0.2010)
    assert DM.scripts["cifar-100"].std == (0.2673, 0.2564, 0.2762)


def test_nothing_is_prepared() -> None:
    assert problems_of(DM(), prepare__experts=3) == ["prepare: DM needs nothing prepared; remove experts"]


def test_an_ipc_that_the_script_does_not_start_with_ends_before_it(cli: Cli, bare_home: Path) -> None:
    answer = cli("run", "dm", "--ipc", "25")
    assert answer.code == 2
    assert "ipc: DM's script starts with 1, 10, 20, 30, 40 or 50 images a class only (is 25)" in answer.err
    assert not bare_home.exists()


@pytest.mark.slow
@pytest.mark.upstream
@pytest.mark.parametrize("script", ["cifar-10", pytest.param("cifar-100", marks=pytest.mark.every_script)])
def test_the_patch_of_dm_is_inert_and_reaches_the_loss(script: str, tmp_path: Path, bare_home: Path) -> None:
    verdict = verified(DM(), script, tmp_path)
    assert (verdict.steps, verdict.files) == (3, 2)


@pytest.mark.slow
@pytest.mark.upstream
def test_a_whole_run_of_dm_with_dire_ends_with_images_of_every_class(bare_home: Path) -> None:
    vendor_or_skip(DM())
    settings = tuple(f"{key}={value}" for key, value in DM_TINY.items())
    run = run_arm(Request("dm", arm="dire", settings=settings)).folder.path
    assert len(list((run / "images").glob("new*/*.png"))) == 10
    assert read_json(run / "metrics.json")["accuracy"]["protocol"] == "hard-labels"
