"""A whole run in this process: what is left on disk, what is shared, what a failure keeps, what makes another run."""

import shutil
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file
from support.directory_calls import count_calls, make_old
from support.small_run import forget, made_by_kind, native, only_run, outcome, run_folders, when_made, write_recipe

from dire_plug.acceleration import BF16, COMPILE, ONE_PASS, find_missing
from dire_plug.data import imagenet
from dire_plug.data.loading import DATASETS
from dire_plug.errors import DirePlugError
from dire_plug.files import read_json
from dire_plug.methods.sre2l import SRe2L
from dire_plug.pipeline import Request, plan_run, run_arm
from dire_plug.pipeline import run as pipeline
from dire_plug.pipeline.request import choose_engine, read_data
from dire_plug.recipe import REAL_IMAGE_ARMS
from dire_plug.stages import recover
from dire_plug.stages.artefacts import Source, name_labels, name_networks
from dire_plug.stages.images import read_saved
from dire_plug.stages.measure import measure
from dire_plug.store.provenance import code
from dire_plug.store.runs import Run, RunFolder, choose_device, run_folder
from dire_plug.types.artefact import Artefact


def folder_of(recipe: Path, arm: str = "baseline", **more: Any) -> str:
    """Return the name of a run's folder, which carries its id."""
    run = plan_run(native(recipe, arm, **more))
    run = replace(run, data=read_data(run))
    return run_folder(run, list(pipeline.name_artefacts(run).values())).path.name


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
        "artefacts.json",
        "metrics.json",
        "losses.json",
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


def test_metrics_have_accuracies_and_diversity_beside_real_images(baseline: Path) -> None:
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


def test_a_run_names_every_entry_of_the_store_that_it_consists_of(finished: Path, baseline: Path) -> None:
    roles = read_json(baseline / "artefacts.json")
    assert set(roles) == set(when_made(finished))
    counted = {kind: len(names) for kind, names in made_by_kind(finished).items()}
    one_each = dict.fromkeys(("images", "collapse", "student"), 1)
    in_both = dict.fromkeys(("network", "pass", "radii", "reference", "diversity"), 2)
    assert counted == {**one_each, **in_both, "embeddings": 4}
    assert {"teacher", "independent", "images", "student resnet-small 0", "diversity in T"} <= set(roles.values())


def test_a_runs_images_are_the_files_of_the_store(finished: Path, baseline: Path) -> None:
    stored = {path.stat().st_ino for path in (finished / "store" / "pass").rglob("*.jpg")}
    assert {path.stat().st_ino for path in (baseline / "images").rglob("*.jpg")} == stored
    assert {path.stat().st_mode & 0o222 for path in (finished / "store" / "pass").rglob("*.jpg")} == {0}


def test_provenance_tells_what_made_the_run(baseline: Path) -> None:
    provenance = read_json(baseline / "provenance.json")
    assert provenance["upstream"]["commit"] == SRe2L.upstream.commit
    assert (provenance["engine"], provenance["arm"], provenance["seed"]) == ("native", "baseline", 0)
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
    first = run_arm(native(recipe, "dire"))
    assert folder_of(first.folder.path / "recipe.yaml", "dire") == first.folder.path.name


# What arms share.


def test_every_arm_runs_on_the_same_teachers(home: Path, recipe: Path) -> None:
    before = when_made(home)
    for arm in ("control", "dire", "random"):
        run_arm(native(recipe, arm))
    after = when_made(home)
    assert {name: after[name] for name in before} == before
    shared = ("network", "embeddings", "radii", "reference")
    assert {name for name in after if name.partition("/")[0] in shared} == set(before)
    metrics = {read_json(folder / "metrics.json")["arm"]: folder for folder in run_folders(home)}
    assert set(metrics) == {"control", "dire", "random"}
    control, dire = (load_file(metrics[arm] / "images.safetensors")["images"] for arm in ("control", "dire"))
    assert not torch.equal(control, dire)
    real = [read_json(folder / "metrics.json")["diversity"]["I"]["real"] for folder in metrics.values()]
    assert real[0] == real[1] == real[2]
    assert read_json(metrics["random"] / "metrics.json")["engine"] == "none"
    assert read_json(metrics["random"] / "metrics.json")["recover"] is None


def test_a_term_of_weight_zero_gives_the_control_its_bits(home: Path, recipe: Path) -> None:
    run_arm(native(recipe, "control"))
    run_arm(native(recipe, "dire", settings=("regularizers.dire.multiplier=0",)))
    images = [load_file(folder / "images.safetensors")["images"] for folder in run_folders(home)]
    assert torch.equal(images[0], images[1])


def test_arms_start_from_the_same_noise(home: Path, recipe: Path) -> None:
    """After one step of a tiny learning rate, images of every arm are nearly their start."""
    settings = ("recover.flags.lr=1e-6", "recover.flags.iteration=1", "evaluate.source=tensor")
    for arm in ("baseline", "control", "dire"):
        run_arm(native(recipe, arm, settings=settings))
    images = [load_file(folder / "images.safetensors")["images"] for folder in run_folders(home)]
    assert len(images) == 3
    for other in images[1:]:
        torch.testing.assert_close(images[0], other, rtol=0, atol=1e-5)


# What a failure keeps.


STAGES = {
    "squeeze": "squeeze",
    "prepare": "prepare",
    "embed": "embed",
    "recover": "recover",
    "evaluate": "evaluate_arm",
    "measure": "measure",
}
"""Stage → the function that does it."""


@pytest.mark.parametrize("stage", list(STAGES))
def test_a_failing_stage_is_named_and_the_rerun_ends_as_if_undisturbed(
    home: Path, recipe: Path, baseline: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    do = getattr(pipeline, STAGES[stage])

    def fail_afterwards(*given: Any, **named: Any) -> None:
        do(*given, **named)
        raise DirePlugError("it broke")

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, STAGES[stage], fail_afterwards)
        with pytest.raises(DirePlugError, match="it broke"):
            run_arm(native(recipe))
    status = read_json(only_run(home) / "status.json")
    assert (status["state"], status["stage"], status["error"]) == ("failed", stage, "it broke")
    assert not (only_run(home) / "metrics.json").exists()
    before = when_made(home)
    assert not run_arm(native(recipe)).reused
    assert outcome(only_run(home)) == outcome(baseline)
    after = when_made(home)
    assert {name: after[name] for name in before} == before


def test_a_finished_run_stays_finished_while_it_is_shown_again(
    home: Path, recipe: Path, baseline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_arm(native(recipe))
    files = [only_run(home) / name for name in ("metrics.json", "status.json")]
    files[0].write_text(files[0].read_text() + "\n")  # other bytes of the same content, which must stay
    before, states = [file.read_bytes() for file in files], []

    def watch(*given: Any) -> Any:
        states.append(RunFolder(only_run(home)).state())
        return measure(*given)

    monkeypatch.setattr(pipeline, "measure", watch)
    forget()
    assert run_arm(native(recipe)).reused
    assert states == ["finished"]
    assert [file.read_bytes() for file in files] == before
    (student,) = (home / "store" / "student").glob("*")
    shutil.rmtree(student)
    forget()
    assert not run_arm(native(recipe)).reused
    assert states == ["finished", "running"]
    assert files[0].read_bytes() != before[0]
    assert outcome(only_run(home)) == outcome(baseline)


def test_a_finished_run_that_lost_its_metrics_gets_them_again(home: Path, recipe: Path) -> None:
    run_arm(native(recipe))
    metrics = (only_run(home) / "metrics.json").read_bytes()
    (only_run(home) / "metrics.json").unlink()
    assert run_arm(native(recipe)).reused
    assert (only_run(home) / "metrics.json").read_bytes() == metrics


def test_images_are_decoded_once_for_all_stages(home: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[Path] = []

    def count(folder: Path, *arguments: Any, **keys: Any) -> tuple[torch.Tensor, torch.Tensor]:
        decoded.append(folder)
        return read_saved(folder, *arguments, **keys)

    monkeypatch.setattr(recover, "read_saved", count)
    run_arm(native(recipe))
    run_arm(native(recipe, "random"))
    assert [folder.parent.name.split("-")[0] for folder in decoded] == ["baseline", "random"]
    run_arm(native(recipe))
    assert len(decoded) == 2


def write_many_files(root: Path) -> None:
    """Write 2,000 images of ten classes, whose folders look an hour old."""
    for split, count in (("train", 180), ("val", 20)):
        for label in range(10):
            (folder := root / split / f"n{label:02d}").mkdir(parents=True)
            for index in range(count):
                Image.new("RGB", (9, 9), (25 * label, index, 0)).save(folder / f"{index:03d}.png")
    make_old(root)


@pytest.mark.slow
def test_a_finished_run_on_many_files_is_shown_without_listing_them(
    bare_home: Path, tmp_path: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = replace(imagenet.SPEC, classes=10, sizes=(8, 512), read=partial(imagenet.read, expected=10))
    monkeypatch.setitem(DATASETS, spec.name, spec)
    write_many_files(root := tmp_path / "data" / spec.name)
    dataset = {"name": spec.name, "size": 8, "limit": None}
    request = native(write_recipe(tmp_path / "files.yaml", {"dataset": dataset}), data_root=root.parent)
    first = run_arm(request)
    forget()
    # what this process remembers is the last dataset only
    read_data(plan_run(native(recipe)))
    seen = count_calls(monkeypatch, root)
    again = run_arm(request)
    assert (again.reused, again.metrics) == (True, first.metrics)
    # of 22 folders, and of three whether they are there
    assert seen == {"stat": 22 + 3}


# What makes another run.


def test_what_changes_the_result_changes_the_id_and_nothing_else_does(bare_home: Path, recipe: Path) -> None:
    first = folder_of(recipe)
    same: list[dict[str, Any]] = [
        {"device": "cuda:7"},
        {"out": Path("/elsewhere")},
        {"data_root": Path("/data")},
        {"offline": True},
        {"accelerate": "exact"},
        {"accelerate": "fast", "able": ()},
        {"rerun": ("recover",)},
        {"keep_labels": True},
        {"wait": False},
        {"settings": ("regularizers.dire.r_c=9",)},
        {"settings": ("term.network=several",)},
    ]
    assert [change for change in same if folder_of(recipe, **change) != first] == []
    other: list[dict[str, Any]] = [
        {"seed": 1},
        {"ipc": 3},
        {"arm": "control"},
        {"settings": ("recover.flags.lr=0.2",)},
        {"settings": ("evaluate.source=tensor",)},
        {"settings": ("evaluate.epochs=3",)},
        {"settings": ("measure.nearest_k=4",)},
        {"settings": ("squeeze.teacher.epochs=2",)},
        {"settings": ("squeeze.independent.epochs=2",)},
        {"settings": ("dataset.limit=110",)},
        {"accelerate": "fast", "able": (BF16,)},
        {"accelerate": "fast", "able": (ONE_PASS,)},
    ]
    changed = [folder_of(recipe, **change) for change in other]
    assert len({first, *changed}) == 1 + len(other)


def test_fast_changes_the_names_of_what_it_makes_but_not_of_the_judge(bare_home: Path, recipe: Path) -> None:
    def artefacts(**more: Any) -> tuple[Run, dict[str, Artefact]]:
        run = plan_run(native(recipe, "dire", **more))
        run = replace(run, data=read_data(run))
        return run, pipeline.name_artefacts(run)

    (_, plain), (run, fast) = artefacts(), artefacts(accelerate="fast", able=(BF16, COMPILE))
    assert (run.components.names, run.trained_with.names) == ((BF16, COMPILE), (BF16,))
    assert run.engine_shown == "native, fast (bf16 + compile)"
    same = {role for role, one in plain.items() if fast[role].name == one.name}
    assert same == {"independent", "real in I", "radii in I", "reference in I"}
    (one_pass,) = fast["images"].inputs.values()
    assert one_pass.decided_by["accelerate"] == ["bf16", "compile"]
    assert fast["teacher"].decided_by["accelerate"] == ["bf16"]
    student = next(one for role, one in fast.items() if role.startswith("student"))
    assert student.decided_by["accelerate"] == ["bf16"]
    labels = name_labels(run, name_networks(run), Source(digest="x"), run.recipe.evaluate)
    assert labels.decided_by["accelerate"] == ["bf16"]
    # of a loop that has none, such as real images
    assert artefacts(accelerate="fast", able=())[0].components.identity() == {}


def test_a_run_says_where_fast_acts_and_what_is_missing(
    bare_home: Path, recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = plan_run(native(recipe, accelerate="fast", able=(ONE_PASS,)))
    pipeline.say_accelerated(run)
    pipeline.say_accelerated(plan_run(native(recipe, accelerate="exact")))
    said = capsys.readouterr()
    text = " ".join((said.out + said.err).split())
    assert "--accelerate fast: SRe2L's loop: one-pass statistics" in text
    assert "--accelerate fast: networks, labels and students: none" in text
    assert "without bf16: not every machine that works for this can do it" in text
    assert "--accelerate exact: does nothing in SRe2L's loop" in text


def test_a_fast_run_is_whole_and_tells_its_components(home: Path, recipe: Path) -> None:
    if BF16 in (missing := find_missing("cpu")):
        pytest.skip(missing[BF16])
    finished = run_arm(native(recipe, "dire", accelerate="fast", able=(BF16, ONE_PASS)))
    told = {"synthesis": [BF16, ONE_PASS], "networks": [BF16]}
    assert finished.metrics["accelerate"] == told
    assert read_json(finished.folder.path / "provenance.json")["accelerate"] == told
    plain = run_arm(native(recipe, "dire"))
    assert "accelerate" not in plain.metrics
    networks = [one.metrics["networks"] for one in (finished, plain)]
    assert networks[0]["independent"] == networks[1]["independent"]
    assert networks[0]["teacher"] != networks[1]["teacher"]


def test_real_images_do_not_depend_on_how_others_are_synthesized(bare_home: Path, recipe: Path) -> None:
    first = folder_of(recipe, "random")
    assert folder_of(recipe, "random", settings=("recover.flags.lr=0.2",)) == first
    assert folder_of(recipe, "random", settings=("evaluate.epochs=3",)) != first


def test_two_runs_of_one_request_give_the_same_bits_in_two_homes(
    tmp_path: Path, recipe: Path, baseline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIRE_PLUG_HOME", str(tmp_path / "other"))
    run_arm(native(recipe))
    assert outcome(only_run(tmp_path / "other")) == outcome(baseline)


# Engines.


def test_a_recipe_of_the_paper_never_runs_on_the_native_engine(bare_home: Path, tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "paper.yaml", {"demonstration": False})
    with pytest.raises(DirePlugError, match="get it with: dire-plug vendor sre2l"):
        plan_run(native(path, engine="auto"))
    with pytest.raises(DirePlugError, match=r"runs upstream's own code only; .* dire-plug vendor sre2l"):
        plan_run(native(path, engine="native"))
    dry = plan_run(native(path, engine="auto"), dry=True)
    assert (dry.engine, dry.ready) == ("upstream", False)


def test_a_script_without_a_native_loop_is_refused_under_the_native_engine(bare_home: Path) -> None:
    with pytest.raises(DirePlugError, match="no native engine for the script 'tiny'"):
        plan_run(Request("sre2l", recipe="tiny-imagenet", engine="native"))


@pytest.mark.parametrize("arm", REAL_IMAGE_ARMS)
@pytest.mark.parametrize("engine", ["auto", "upstream", "native"])
def test_real_images_need_no_engine(bare_home: Path, recipe: Path, arm: str, engine: str) -> None:
    planned = plan_run(native(recipe, arm, engine=engine))
    assert choose_engine(planned.request, planned.adapter, planned.resolved) == ("none", True)
