"""DELT's adapter: its plan, flags, selection and command lines; its bad case; its patch; one tiny run."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from pydantic import ValidationError
from support.cli import Cli
from support.shim_isolation import shims_put_back
from support.small_run import only_run
from support.upstreams import vendor_or_skip
from torchvision import transforms

from dire_plug.data.dataset import Dataset, make_tensor_dataset
from dire_plug.data.folders import File, make_folder_split
from dire_plug.errors import DirePlugError
from dire_plug.files import read_json
from dire_plug.methods.delt import DELT, candidates_needed, check_candidates, write_candidates
from dire_plug.models import build
from dire_plug.models.checkpoint import Network
from dire_plug.pipeline import Request, plan_run
from dire_plug.recipe import check_recipe, read_yaml
from dire_plug.recipe.loading import merge
from dire_plug.recipe.model import RecoverSection
from dire_plug.stages.artefacts import Networks, name_inputs
from dire_plug.types import Invocation, LoopInputs, Preparation, ScriptInputs, Slot, StartImages
from dire_plug.types.artefact import Artefact
from dire_plug.upstream import shims
from dire_plug.upstream.runner import run_alone
from dire_plug.upstream.source.patching import read_patch
from dire_plug.upstream.verify.runs import set_up
from dire_plug.upstream.verify.verify import verify


def recover(script: str = "cifar-10", **flags: Any) -> RecoverSection:
    named = {name.replace("_", "-"): value for name, value in flags.items()}
    return RecoverSection(script=script, flags=named, start="own")


def inputs_of(section: RecoverSection, *, size: int = 32, architecture: str = "resnet-18", **values: Any) -> LoopInputs:
    """Return what the adapter knows of a run with this section."""
    squeeze = SimpleNamespace(teacher=SimpleNamespace(architecture=architecture))
    recipe = SimpleNamespace(recover=section, squeeze=squeeze, ipc=5, prepare={"selection-criteria": "min"})
    return LoopInputs(
        recipe,
        classes=3,
        size=size,
        seed=0,
        folder=values.pop("folder", Path("/run/inputs")),
        images=Path("/run/images"),
        **values,
    )


def after(call: Invocation, flag: str) -> str:
    """Return what stands behind a flag on the command line."""
    return call.arguments[call.arguments.index(flag) + 1]


def pictures(per_class: int = 4, *, last: int | None = None) -> Dataset:
    """Return three classes of 8×8 images, each with a grey of its own; the last may have fewer."""
    counts = (per_class, per_class, per_class if last is None else last)
    labels = torch.tensor([label for label, count in enumerate(counts) for _ in range(count)]).flip(0)
    pixels = torch.arange(len(labels), dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 8, 8).contiguous()
    return make_tensor_dataset("pictures", train=(pixels, labels), test=(pixels, labels), classes=["a", "b", "c"])


def refused(changes: dict[str, Any]) -> str:
    """Return the message with which the recipe `quick` is refused after these changes."""
    adapter = DELT()
    with pytest.raises(DirePlugError) as caught:
        check_recipe(merge(read_yaml(adapter.recipes() / "quick.yaml"), changes), adapter=adapter)
    return str(caught.value)


# The plan.


def test_the_plan_goes_class_by_class_and_cuts_where_upstreams_loader_does() -> None:
    plan = DELT().plan(recover(batch_size=4), classes=2, ipc=3)
    assert [plan.slot(Slot(0, batch)).labels for batch in range(2)] == [(0, 0, 0, 1), (1, 1)]
    assert [plan.slot(Slot(0, batch)).images for batch in range(2)] == [(0, 1, 2, 0), (1, 2)]
    assert (plan.passes, plan.ipc) == (1, 3)


def test_the_steps_of_a_slot_are_its_iterations() -> None:
    assert DELT().steps(recover(iteration=7)) == 7


# Flags.


def test_flags_have_upstreams_defaults() -> None:
    assert DELT().read_flags(recover()).model_dump(by_alias=True) == {
        "batch-size": 100,
        "iteration": 1000,
        "lr": 0.1,
        "jitter": 32,
        "r-bn": 0.05,
        "first-bn-multiplier": 10.0,
        "use-early-late": False,
        "round-iterations": 0,
        "easy2hard-mode": "cosine",
        "milestone": 0.0,
    }


def test_a_milestone_is_a_share() -> None:
    with pytest.raises(ValidationError, match="milestone"):
        DELT().read_flags(recover(milestone=1.5))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recover": {"plan": {"per_class": 5}}}, "recover.plan: must be 'keep': a batch holds several images"),
        ({"recover": {"start": "noise"}}, "recover.start: must be 'own': the images that upstream's own selection"),
        ({"recover": {"embedder": {}}}, "recover.embedder: the teacher is in the loop already"),
        ({"recover": {"flags": {"round-iterations": 0}}}, "recover.flags.round-iterations: must be given"),
        ({"recover": {"flags": {"iteration": 70}}}, "must be a multiple of round-iterations (20)"),
        ({"recover": {"flags": {"min-iterations": 20}}}, "recover.flags.min-iterations: can't be set in a recipe"),
        ({"prepare": {"selection-criteria": "best"}}, "prepare.selection-criteria: must be"),
        ({"prepare": {"ranker": "x"}}, "prepare.ranker: unknown key"),
        ({"squeeze": {"teacher": {"architecture": "convnet-3"}}}, "'cifar-10' takes resnet-18 or resnet-small"),
    ],
)
def test_what_the_script_cannot_do_is_refused(changes: dict[str, Any], message: str) -> None:
    assert message in refused(changes)


def test_rounds_count_only_where_they_are_used() -> None:
    flags = {"use-early-late": False, "round-iterations": 0, "iteration": 70}
    adapter = DELT()
    tree = merge(read_yaml(adapter.recipes() / "quick.yaml"), {"recover": {"flags": flags}})
    check_recipe(tree, adapter=adapter)


# The selection.


def read_past_the_ranking(count: int, ipc: int) -> bool:
    """Tell, place by place, whether upstream's steps away from the middle of `count` images leave the ranking."""
    middle, sign = -(-count // 2), -1
    for number in range(ipc):
        if not 0 <= middle + int(sign * (number + 1) / 2) < count:
            return True
        sign = -sign
    return False


@pytest.mark.parametrize("ipc", range(1, 13))
def test_the_medium_selection_needs_as_many_candidates_as_upstream_reads(ipc: int) -> None:
    needed = candidates_needed(ipc, "medium")
    assert read_past_the_ranking(needed - 1, ipc)
    assert not any(read_past_the_ranking(count, ipc) for count in range(needed, needed + 9))


def test_the_other_selections_need_as_many_candidates_as_images() -> None:
    assert (candidates_needed(10, "top"), candidates_needed(9, "min")) == (10, 9)


def test_the_class_that_is_short_of_candidates_is_named() -> None:
    check_candidates(pictures(4), ipc=3, criteria="medium")
    with pytest.raises(DirePlugError, match="class 'c' has 3 images, but DELT's 'medium' selection needs 4 candidates"):
        check_candidates(pictures(4, last=3), ipc=3, criteria="medium")


def test_candidates_are_written_unchanged_in_folders_sorted_like_labels(tmp_path: Path) -> None:
    dataset = pictures(2)
    write_candidates(tmp_path, dataset)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000", "00001", "00002"]
    for label in range(3):
        for path in (tmp_path / f"{label:05d}").iterdir():
            number = int(path.stem)
            assert dataset.train.labels[number] == label
            with Image.open(path) as image:
                assert torch.equal(transforms.functional.pil_to_tensor(image), dataset.train.images()[number])


def test_images_that_are_read_on_demand_are_linked(tmp_path: Path) -> None:
    published = tmp_path / "published" / "cat.JPEG"
    published.parent.mkdir()
    published.write_bytes(b"not looked at")
    split = make_folder_split(tmp_path, [File(published, 0, 13)], size=224)
    dataset = Dataset("folders", split, split, ("cat",), 224, "digest")
    write_candidates(tmp_path / "candidates", dataset)
    (link,) = (tmp_path / "candidates" / "00000").iterdir()
    assert (link.is_symlink(), link.suffix, link.resolve()) == (True, ".JPEG", published.resolve())


def write_inputs(folder: Path, dataset: Dataset, **values: Any) -> list[str]:
    """Lay a run out below `folder` with an untrained teacher; return what lies there."""
    script = DELT.scripts["cifar-10"]
    model = build("resnet-small", outputs=10, stem="small")
    teacher = Network(model, "resnet-small", 10, "small", script.mean, script.std)
    folder.mkdir()
    inputs = inputs_of(recover(), folder=folder, **values)
    DELT().write_inputs(inputs, ScriptInputs({"teacher": teacher}, dataset))
    return sorted(path.name for path in folder.iterdir())


def test_the_candidates_are_written_for_the_selection_alone(tmp_path: Path) -> None:
    assert write_inputs(tmp_path / "before", pictures(5)) == ["candidates", "teacher.pt"]
    assert write_inputs(tmp_path / "after", pictures(5), prepared={"selection": Path("/made")}) == ["teacher.pt"]
    assert set(torch.load(tmp_path / "after" / "teacher.pt", weights_only=True)) == {"model"}


def test_a_class_that_is_short_of_candidates_is_refused(tmp_path: Path) -> None:
    recipe = inputs_of(recover(), folder=tmp_path).recipe
    with pytest.raises(DirePlugError, match="class 'c' has 2 images, but DELT's 'min' selection needs 5"):
        DELT().check_dataset(recipe, pictures(5, last=2))
    DELT().check_dataset(recipe, pictures(5))


def test_the_loop_is_made_from_upstreams_selection_alone(bare_home: Path) -> None:
    run = replace(plan_run(Request("delt"), dry=True), data=pictures(2))
    teacher = Artefact("network", {"seed": 0})
    inputs = name_inputs(run, Networks(teacher, Artefact("network", {"seed": 1})))
    assert (inputs.start, inputs.whitening, inputs.expert) == (None, None, None)
    assert list(inputs.prepared) == ["selection"]
    assert inputs.prepared["selection"].inputs == {"teacher": teacher}
    assert not bare_home.exists()


def test_a_start_of_upstreams_own_is_left_alone() -> None:
    plan = DELT().plan(recover(), classes=2, ipc=2)
    synthesis: Any = SimpleNamespace(plan=plan, start_images=StartImages("own"))
    labels = torch.tensor([0, 0, 1, 1])
    assert DELT().plan_labels(synthesis, Slot(0, 0), labels) is None
    assert DELT().initial_images(synthesis, Slot(0, 0), torch.zeros(4, 3, 8, 8), labels) is None


# Command lines.


@pytest.mark.parametrize(
    ("script", "recovers", "selects"),
    [
        ("cifar-10", "cifar10", "cifar10"),
        ("tiny-imagenet", "tinyimagenet", "tiny-imagenet"),
        ("imagenet-1k", "imagenet-1k", "imagenet-1k"),
    ],
)
def test_each_of_upstreams_programs_is_told_the_dataset_as_it_spells_it(
    script: str, recovers: str, selects: str
) -> None:
    inputs = inputs_of(recover(script), prepared={"selection": Path("/made")})
    assert after(DELT().invocation(inputs), "--dataset") == recovers
    assert after(DELT().preparations(inputs)[0].invocation, "--dataset") == selects


def test_the_selection_reads_the_candidates_and_writes_into_its_own_folder() -> None:
    preparation = DELT().preparations(inputs_of(recover()))[0]
    call = preparation.invocation
    assert call.script == "data_selection.py"
    assert after(call, "--data-path") == "/run/inputs/candidates"
    assert after(call, "--output-path") == "/run/images/selected"
    assert after(call, "--ranker-path") == "/run/inputs/teacher.pt"
    assert (after(call, "--ipc"), after(call, "--selection-criteria")) == ("5", "min")
    assert "sorted_listing" in call.shims
    assert preparation.key == {"ipc": 5, "dataset": "cifar-10", "selection-criteria": "min"}


def test_only_the_selection_reads_its_images_in_threads() -> None:
    assert DELT().preparations(inputs_of(recover()))[0].invocation.shims["loader"] == {"threads": True}
    call = DELT().invocation(inputs_of(recover(), prepared={"selection": Path("/made")}))
    assert call.shims["loader"] == {}


def test_the_loop_starts_from_the_selection() -> None:
    call = DELT().invocation(inputs_of(recover(use_early_late=True), prepared={"selection": Path("/made")}))
    assert call.script == "recover/recover.py"
    assert after(call, "--init-data-path") == "/made/selected"
    assert (after(call, "--syn-data-path"), after(call, "--exp-name")) == ("/run", "images")
    assert after(call, "--arch-path") == "/run/inputs/teacher.pt"
    assert {"--use-early-late", "--store-best-images"} <= set(call.arguments)
    assert Counter(call.arguments).most_common(1)[0][1] <= 3  # no flag twice; a value may be
    assert not {"--gpu-device", "--workers", "--input-size"} & set(call.arguments)
    assert set(call.shims) == {"device", "torch_load", "network", "loader"}


def test_another_size_and_network_are_put_in_by_shims() -> None:
    inputs = inputs_of(recover(), size=8, architecture="resnet-small", prepared={"selection": Path("/made")})
    call = DELT().invocation(inputs)
    assert call.shims["crop_size"] == call.shims["centre_crop"] == {"from": 32, "to": 8}
    assert call.shims["get_model"] == {"replace": "resnet18", "architecture": "resnet-small"}


@pytest.mark.parametrize(("old", "new", "enlarged"), [(32, 8, 8), (64, 32, 32), (64, 28, 32), (224, 64, 72)])
def test_a_hard_coded_centre_takes_the_datasets_size(
    monkeypatch: pytest.MonkeyPatch, old: int, new: int, enlarged: int
) -> None:
    from dire_plug.upstream.shims import centre_crop

    for transform in (transforms.CenterCrop, transforms.Resize):
        monkeypatch.setattr(transform, "__init__", transform.__init__)
    centre_crop.install(device="cpu", **{"from": old, "to": new})
    assert transforms.Resize(old // 7 * 8, antialias=True).size == enlarged
    assert transforms.CenterCrop(old).size == (new, new)
    assert transforms.CenterCrop(20).size == (20, 20)


def test_a_centre_without_both_sizes_is_refused() -> None:
    expected = pytest.raises(DirePlugError, match=r"'centre_crop' takes the options 'from' .* and 'to'")
    with shims_put_back(), expected:
        shims.install({"centre_crop": {"to": 8}}, device="cpu")


def test_the_patch_tells_the_labels_of_a_step_in_both_branches() -> None:
    patch = read_patch(DELT().patches() / "bridge.patch")
    (file,) = patch.files
    told = {hunk.after for hunk in file.hunks if any("bridge.in_use" in line for line in hunk.inserted)}
    assert told == {150, 152}


# The bad case, and upstream's own code.


def test_a_class_short_of_candidates_is_told_before_anything_starts(cli: Cli, bare_home: Path) -> None:
    answer = cli("run", "delt", "--set", "dataset.limit=110")
    assert answer.code == 2
    assert "dataset.limit: a class has 11 images, but DELT's 'medium' selection needs 12 candidates" in answer.err
    assert "take more training images or a lower IPC" in answer.err
    assert not (bare_home / "runs").exists()
    assert not (bare_home / "store").exists()


@pytest.mark.slow
@pytest.mark.upstream
@pytest.mark.parametrize(
    "script",
    ["cifar-10", *(pytest.param(name, marks=pytest.mark.every_script) for name in ("tiny-imagenet", "imagenet-1k"))],
)
def test_the_patch_of_delt_is_inert_and_reaches_the_loss(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIRE_PLUG_HOME", str(tmp_path / "home"))
    vendor_or_skip(DELT())
    verdict = verify(DELT(), scripts=[script], workdir=tmp_path)[0]
    assert verdict.holds, verdict
    assert (verdict.steps, verdict.files) == (5, 2 if script == "imagenet-1k" else 4)


class InOneThread(DELT):
    """DELT whose selection reads one image after another."""

    def preparations(self, inputs: LoopInputs) -> tuple[Preparation, ...]:
        (made,) = super().preparations(inputs)
        shims = {**made.invocation.shims, "loader": {}}
        return (replace(made, invocation=replace(made.invocation, shims=shims)),)


@pytest.mark.upstream
def test_a_selection_read_in_threads_is_that_of_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIRE_PLUG_HOME", str(tmp_path / "home"))
    vendor_or_skip(DELT())
    made = []
    for adapter in (DELT(), InOneThread()):
        setup = set_up(adapter, "cifar-10", tmp_path / type(adapter).__name__, run=run_alone)
        (folder,) = setup.inputs.prepared.values()
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        made.append({path.relative_to(folder).as_posix(): path.read_bytes() for path in files})
    assert any(name.endswith(".csv") for name in made[0])
    assert len(made[0]) == 7
    assert made[0] == made[1]


@pytest.mark.slow
@pytest.mark.upstream
def test_a_tiny_run_with_the_term_leaves_its_images(cli: Cli, bare_home: Path, tmp_path: Path) -> None:
    vendor_or_skip(DELT())
    changes = {
        "dataset": {"limit": 60},
        "ipc": 3,
        "squeeze": {"teacher": {"epochs": 1}, "independent": {"epochs": 1}},
        "recover": {"flags": {"batch-size": 10, "iteration": 4, "round-iterations": 2}},
        "evaluate": {"epochs": 2},
    }
    tree = merge(read_yaml(DELT().recipes() / "quick.yaml"), changes)
    del tree["name"]
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    answer = cli("run", "delt", "--recipe", tmp_path / "tiny.yaml", "--dire")
    assert answer.code == 0, answer.err
    run = only_run(bare_home)
    assert len(list((run / "images").rglob("*.jpg"))) == 30
    assert read_json(run / "plan.json")["slots"][0]["labels"] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3]
    (selection,) = (bare_home / "store" / "prepared").glob("*/made")
    assert len(list((selection / "selected").rglob("*.png"))) == 30
    assert len((selection / "ranking.csv").read_text().splitlines()) == 61
