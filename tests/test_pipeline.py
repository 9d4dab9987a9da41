"""A whole run in this process: what is left on disk, what is shared, what a failure keeps, what makes another run."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tiny import only_run, outcome, run_folders, write_recipe

from dire_plug.adapters.sre2l import SRe2L
from dire_plug.errors import DirePlugError
from dire_plug.files import read_json
from dire_plug.pipeline import Request, plan_run, run_arm
from dire_plug.pipeline import run as pipeline
from dire_plug.pipeline.request import choose_device, choose_engine
from dire_plug.recipe import REAL_IMAGE_ARMS
from dire_plug.stages import images
from dire_plug.store.provenance import code


def request(recipe: Path, arm: str = "baseline", **more: Any) -> Request:
    return Request("sre2l", recipe=str(recipe), arm=arm, **{"engine": "native", **more})


def identity_of(recipe: Path, arm: str = "baseline", **more: Any) -> str:
    """Return the id of a run, as its folder's name would carry it."""
    return json.dumps(plan_run(request(recipe, arm, **more)).run_identity(dataset="d"), sort_keys=True)


# What a run leaves.


def test_a_finished_run_has_the_files_that_the_design_names(baseline: Path) -> None:
    names = {path.name for path in baseline.iterdir()}
    assert names == {
        "recipe.yaml",
        "provenance.json",
        "status.json",
        "plan.json",
        "images",
        "images.safetensors",
        "evaluate",
        "metrics.json",
        "losses.json",
        "collapse.json",
        "inputs.json",
        "seconds.json",
    }
    assert not list(baseline.parent.glob(".*"))
    status = read_json(baseline / "status.json")
    assert (status["state"], status["stage"]) == ("finished", "measure")


def test_images_and_tensors_hold_each_image_of_each_class(baseline: Path) -> None:
    tensors = load_file(baseline / "images.safetensors")
    assert tensors["images"].shape == (20, 3, 8, 8)
    assert 0 <= tensors["images"].min() < tensors["images"].max() <= 1
    assert tensors["labels"].tolist() == [label for label in range(10) for _ in range(2)]
    assert tensors["numbers"].tolist() == [0, 1] * 10
    saved = sorted(path.relative_to(baseline / "images").as_posix() for path in (baseline / "images").rglob("*.jpg"))
    assert saved == sorted(SRe2L().image_path(label, image) for label in range(10) for image in range(2))


def test_metrics_have_accuracies_and_diversity_in_both_networks_beside_real_images(baseline: Path) -> None:
    metrics = read_json(baseline / "metrics.json")
    student = metrics["accuracy"]["students"]["resnet-small"]
    assert len(student["last"]) == len(student["best"]) == 1
    assert 0 <= student["last"][0] <= student["best"][0] <= 100
    assert set(metrics["diversity"]) == {"T", "I"}
    for measures in metrics["diversity"].values():
        assert set(measures) - {"real"} < set(measures["real"])
        assert -1 <= measures["similarity"] <= 1
    assert {key: metrics[key] for key in ("arm", "seed", "engine", "ipc")} == {
        "arm": "baseline",
        "seed": 0,
        "engine": "native",
        "ipc": 2,
    }


def test_provenance_tells_what_made_the_run(baseline: Path) -> None:
    provenance = read_json(baseline / "provenance.json")
    assert provenance["upstream"]["commit"] == SRe2L.upstream.commit
    assert (provenance["engine"], provenance["commit"], provenance["patch"]) == ("native", None, None)
    (session,) = provenance["sessions"]
    assert torch.__version__.startswith(session["versions"]["torch"])
    assert session["hardware"]["device"] == choose_device("auto")
    assert session["code"] == asdict(code())
    assert len(provenance["dataset"]) == 64


def test_the_stored_recipe_has_every_value_as_it_was_resolved(baseline: Path) -> None:
    content = yaml.safe_load((baseline / "recipe.yaml").read_text())
    assert content["recover"]["flags"]["iteration"] == 3
    assert content["measure"]["nearest_k"] == 5
    assert "arms" not in content


def test_the_recipe_that_a_run_keeps_is_found_to_be_the_same_run(home: Path, recipe: Path) -> None:
    first = run_arm(request(recipe, "dire"))
    again = plan_run(request(first.folder.path / "recipe.yaml", "dire"))
    assert again.run_identity(dataset="d") == plan_run(request(recipe, "dire")).run_identity(dataset="d")


# What arms share.


def test_every_arm_runs_on_the_same_teachers(home: Path, recipe: Path) -> None:
    networks = sorted(path.name for path in (home / "cache" / "squeeze").iterdir())
    for arm in ("control", "dire", "random"):
        run_arm(request(recipe, arm))
    assert sorted(path.name for path in (home / "cache" / "squeeze").iterdir()) == networks
    metrics = {read_json(folder / "metrics.json")["arm"]: folder for folder in run_folders(home)}
    assert set(metrics) == {"control", "dire", "random"}
    control, dire = (load_file(metrics[arm] / "images.safetensors")["images"] for arm in ("control", "dire"))
    assert not torch.equal(control, dire)
    real = [read_json(folder / "metrics.json")["diversity"]["I"]["real"] for folder in metrics.values()]
    assert real[0] == real[1] == real[2]
    assert read_json(metrics["random"] / "metrics.json")["engine"] == "none"
    assert read_json(metrics["random"] / "metrics.json")["recover"] is None


def test_a_term_of_weight_zero_gives_the_control_its_bits(home: Path, recipe: Path) -> None:
    run_arm(request(recipe, "control"))
    run_arm(request(recipe, "dire", settings=("regularizers.dire.multiplier=0",)))
    images = [load_file(folder / "images.safetensors")["images"] for folder in run_folders(home)]
    assert torch.equal(images[0], images[1])


def test_arms_start_from_the_same_noise(bare_home: Path, finished: Path, recipe: Path) -> None:
    """After one step of a tiny learning rate, images of every arm are nearly their start."""
    shutil.copytree(finished / "cache", bare_home / "cache")
    settings = ("recover.flags.lr=1e-6", "recover.flags.iteration=1", "evaluate.source=tensor")
    for arm in ("baseline", "control", "dire"):
        run_arm(request(recipe, arm, settings=settings))
    images = [load_file(folder / "images.safetensors")["images"] for folder in run_folders(bare_home)]
    assert len(images) == 3
    for other in images[1:]:
        torch.testing.assert_close(images[0], other, rtol=0, atol=1e-5)


# What a failure keeps.


@pytest.mark.parametrize("stage", ["squeeze", "recover", "evaluate", "measure"])
def test_a_stage_that_fails_is_named_and_the_rerun_ends_as_if_nothing_had_been(
    home: Path, recipe: Path, baseline: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    do = pipeline.STAGES[stage]

    def fail_afterwards(work: Any) -> None:
        do(work)
        raise DirePlugError("it broke")

    with monkeypatch.context() as patch:
        patch.setitem(pipeline.STAGES, stage, fail_afterwards)
        with pytest.raises(DirePlugError, match="it broke"):
            run_arm(request(recipe))
    status = read_json(only_run(home) / "status.json")
    assert (status["state"], status["stage"], status["error"]) == ("failed", stage, "it broke")
    assert not (only_run(home) / "metrics.json").exists()
    assert not run_arm(request(recipe)).reused
    assert outcome(only_run(home)) == outcome(baseline)


def test_finished_images_and_students_are_not_made_again(
    home: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(job: Any) -> None:
        raise DirePlugError("it broke")

    with monkeypatch.context() as patch:
        patch.setitem(pipeline.STAGES, "measure", fail)
        with pytest.raises(DirePlugError):
            run_arm(request(recipe))
    folder = only_run(home)
    files = [folder / "images.safetensors", folder / "evaluate" / "resnet-small-0.json"]
    before = [path.stat().st_mtime_ns for path in files]
    run_arm(request(recipe))
    assert [path.stat().st_mtime_ns for path in files] == before


def test_images_are_decoded_once_for_all_stages(home: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read, decoded = images.read_saved, []

    def count(folder: Path, *arguments: Any, **keys: Any) -> tuple[torch.Tensor, torch.Tensor]:
        decoded.append(folder)
        return read(folder, *arguments, **keys)

    monkeypatch.setattr(images, "read_saved", count)
    run_arm(request(recipe))
    run_arm(request(recipe, "random"))
    assert [folder.parent.name.split("-")[0] for folder in decoded] == ["baseline", "random"]


# What makes another run.


def test_what_changes_the_result_changes_the_identity_and_nothing_else_does(bare_home: Path, recipe: Path) -> None:
    first = identity_of(recipe)
    same: list[dict[str, Any]] = [
        {"device": "cuda:7"},
        {"out": Path("/elsewhere")},
        {"data_root": Path("/data")},
        {"offline": True},
        {"settings": ("regularizers.dire.r_c=9",)},
    ]
    assert all(identity_of(recipe, **change) == first for change in same)
    other: list[dict[str, Any]] = [
        {"seed": 1},
        {"ipc": 3},
        {"arm": "control"},
        {"settings": ("recover.flags.lr=0.2",)},
        {"settings": ("evaluate.source=tensor",)},
        {"settings": ("squeeze.independent.epochs=2",)},
    ]
    changed = [identity_of(recipe, **change) for change in other]
    assert len({first, *changed}) == 1 + len(other)


def test_real_images_do_not_depend_on_how_others_are_synthesized(bare_home: Path, recipe: Path) -> None:
    first = identity_of(recipe, "random")
    assert identity_of(recipe, "random", settings=("recover.flags.lr=0.2",)) == first
    assert identity_of(recipe, "random", settings=("evaluate.epochs=3",)) != first


def test_two_runs_of_one_request_give_the_same_bits_in_two_homes(
    tmp_path: Path, recipe: Path, baseline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIRE_PLUG_HOME", str(tmp_path / "other"))
    run_arm(request(recipe))
    assert outcome(only_run(tmp_path / "other")) == outcome(baseline)


# Engines.


def test_a_recipe_of_the_paper_never_runs_on_the_native_engine(bare_home: Path, tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "paper.yaml", {"demonstration": False})
    with pytest.raises(DirePlugError, match="get it with: dire-plug vendor sre2l"):
        plan_run(request(path, engine="auto"))
    with pytest.raises(DirePlugError, match=r"runs upstream's own code only; .* dire-plug vendor sre2l"):
        plan_run(request(path, engine="native"))
    dry = plan_run(request(path, engine="auto"), dry=True)
    assert (dry.engine, dry.ready) == ("upstream", False)


def test_a_script_without_a_native_loop_is_refused_under_the_native_engine(bare_home: Path) -> None:
    with pytest.raises(DirePlugError, match="no native engine for the script 'tiny'"):
        plan_run(Request("sre2l", recipe="tiny-imagenet", engine="native"))


@pytest.mark.parametrize("arm", REAL_IMAGE_ARMS)
@pytest.mark.parametrize("engine", ["auto", "upstream", "native"])
def test_real_images_need_no_engine(bare_home: Path, recipe: Path, arm: str, engine: str) -> None:
    planned = plan_run(request(recipe, arm, engine=engine))
    assert choose_engine(planned.request, planned.adapter, planned.resolved) == ("none", True)
