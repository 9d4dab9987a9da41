"""Validation images: how they are held out, who never sees them, and who leaves the test set shut."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from support.cli import Cli
from support.small_run import only_run, run_folders, write_recipe

from dire_plug import data
from dire_plug.data.dataset import Dataset, TensorSplit, make_tensor_dataset
from dire_plug.data.folders import File, make_folder_split
from dire_plug.data.validation import default_count, draw_validation, hold_out, take
from dire_plug.errors import DirePlugError
from dire_plug.files import read_json
from dire_plug.pipeline import Request, plan_run, run_arm, with_data
from dire_plug.pipeline.run import name_artefacts

COUNTS = (7, 5, 9)


def made(counts: tuple[int, ...] = COUNTS) -> Dataset:
    """Return a dataset whose every image has a value of its own; classes are mixed as in published sets."""
    labels = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))]
    pixels = torch.arange(len(labels), dtype=torch.uint8).reshape(-1, 1, 1, 1)
    test = torch.full((3, 1, 1, 1), 200, dtype=torch.uint8), torch.arange(3)
    return make_tensor_dataset("made", train=(pixels, labels), test=test, classes=("a", "b", "c")[: len(counts)])


def values(split: Any) -> list[int]:
    return [int(value) for value in split.images()[:, 0, 0, 0]]


# The draw.


def test_the_draw_is_the_same_for_ever() -> None:
    """numpy's RandomState is frozen; these indices are those of its seed 0."""
    labels = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1])
    assert draw_validation(labels, 4, classes=("a", "b")).tolist() == [0, 2, 5, 7]


def test_each_class_gives_as_many_and_what_is_left_keeps_its_order() -> None:
    whole = made()
    found = hold_out(whole, 6, judge="validation")
    assert torch.bincount(found.test.labels).tolist() == [2, 2, 2]
    assert torch.bincount(found.train.labels).tolist() == [count - 2 for count in COUNTS]
    assert sorted(values(found.train) + values(found.test)) == values(whole.train)
    assert values(found.train) == sorted(values(found.train))
    assert [whole.train.labels[value] for value in values(found.test)] == found.test.labels.tolist()


def test_both_judges_have_one_training_set_and_one_digest() -> None:
    whole = made()
    test, validation = hold_out(whole, 6, judge="test"), hold_out(whole, 6, judge="validation")
    assert values(test.train) == values(validation.train)
    assert test.digest == validation.digest
    assert (test.judged, validation.judged, whole.judged) == ("test", "validation", "test")
    assert test.test is whole.test


def test_what_is_held_out_changes_the_digest() -> None:
    whole = made()
    assert len({whole.digest, *(hold_out(whole, count, judge="test").digest for count in (3, 6))}) == 3


def test_files_are_held_out_as_files() -> None:
    files = [File(Path(f"/set/{name}.png"), label, 1) for name, label in (("a", 0), ("b", 1), ("c", 0))]
    found = take(make_folder_split(Path("/set"), files, size=8), torch.tensor([0, 2]))
    assert found.labels.tolist() == [0, 0]
    assert [str(file.path) for file in found.files] == ["/set/a.png", "/set/c.png"]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (4, "4 images can't be shared equally by 3 classes; use 3 or 6"),
        (2, "2 images can't be shared equally by 3 classes; use 3"),
        (9, "9 images are 3 of each class, but class 'b' has 5 training images and keeps half of them; use at most 6"),
    ],
)
def test_a_number_that_can_not_be_held_out_is_refused(count: int, words: str) -> None:
    with pytest.raises(DirePlugError, match=f"dataset.validation: {words}"):
        hold_out(made(), count, judge="test")


def many(per_class: int, classes: int) -> Dataset:
    labels = torch.arange(classes).repeat(per_class)
    split = TensorSplit(torch.zeros(len(labels), 1, 1, 1, dtype=torch.uint8), labels)
    return Dataset("many", split, split, tuple(map(str, range(classes))), 1, "0")


@pytest.mark.parametrize(
    ("per_class", "classes", "count"), [(144, 10, 280), (5000, 10, 5000), (500, 100, 5000), (7, 6000, 6000)]
)
def test_the_default_is_a_fifth_of_each_class_up_to_a_bound(per_class: int, classes: int, count: int) -> None:
    assert default_count(many(per_class, classes)) == count


def test_a_class_too_small_for_a_default_is_named() -> None:
    with pytest.raises(DirePlugError, match=r"class '0' of many has 4 training images; .* raise dataset.limit"):
        default_count(many(4, 2))


# In a recipe.


def request(recipe: Path, *settings: str, arm: str = "baseline") -> Request:
    return Request("sre2l", recipe=str(recipe), arm=arm, engine="native", settings=settings)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("evaluate.judge=validation", "evaluate.judge: is 'validation', but dataset.validation holds no image out"),
        ("dataset.validation=15", "dataset.validation: 15 images can't be shared equally by 10 classes; use 10 or 20"),
        ("evaluate.judge=tset", "evaluate.judge: must be 'test' or 'validation'"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_runs(
    bare_home: Path, recipe: Path, setting: str, words: str
) -> None:
    with pytest.raises(DirePlugError, match=words):
        plan_run(request(recipe, setting))


def test_validation_images_and_their_judge_make_other_runs(bare_home: Path, recipe: Path) -> None:
    held_out = ("dataset.validation=20",)
    found = [
        {role: one.name for role, one in name_artefacts(with_data(plan_run(request(recipe, *settings)))).items()}
        for settings in ((), held_out, (*held_out, "evaluate.judge=validation"), ("dataset.validation=10",))
    ]
    students = [names["student resnet-small 0"] for names in found]
    assert len(set(students)) == 4
    assert found[1]["images"] == found[2]["images"]  # the judge is no concern of the synthesis


# In a run.


class Shut:
    """A split that nobody may open."""

    def __len__(self) -> NoReturn:
        raise AssertionError("the test set was opened")

    def __getattr__(self, name: str) -> NoReturn:
        raise AssertionError(f"the test set was opened: {name}")


def test_a_run_judged_on_validation_images_says_so_and_opens_no_test_set(
    cli: Cli, bare_home: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = data.load
    monkeypatch.setattr(data, "load", lambda *names, **how: replace(load(*names, **how), test=Shut()))
    settings = ("--set", "dataset.validation=20", "--set", "evaluate.judge=validation")
    answer = cli("run", "sre2l", "--recipe", recipe, "--engine", "native", *settings)
    assert answer.code == 0, answer.err
    assert "tested on validation images, held out of the training set, not on the test set" in answer.out
    assert "% validation accuracy" in answer.err
    metrics = read_json(only_run(bare_home) / "metrics.json")
    assert metrics["judged"] == "validation"
    (accuracy,) = metrics["accuracy"]["students"]["resnet-small"]["last"]
    assert accuracy % 5 == pytest.approx(0, abs=1e-4)  # a share of 20 images


def test_both_judges_share_networks_but_not_what_they_judge_by(bare_home: Path, recipe: Path) -> None:
    held_out = ("dataset.validation=20",)
    for settings in ((*held_out, "evaluate.judge=validation"), held_out):
        run_arm(request(recipe, *settings, arm="random"))
    first, second = (read_json(folder / "metrics.json") for folder in run_folders(bare_home))
    assert first["networks"] == second["networks"]
    assert {first["judged"], second["judged"]} == {"test", "validation"}
    assert len(list(bare_home.glob("store/network/*/network.json"))) == 2
    assert len(list(bare_home.glob("store/embeddings/*/embeddings.safetensors"))) == 2 * 3
    assert first["diversity"]["T"]["real"] != second["diversity"]["T"]["real"]


def test_validation_images_make_other_networks(bare_home: Path, finished: Path, recipe: Path, tmp_path: Path) -> None:
    """A network that had learned from them would be the one of the whole training set."""
    own = write_recipe(tmp_path / "held-out.yaml", {"dataset": {"validation": 20}})
    metrics = run_arm(request(own, arm="random")).metrics
    before = read_json(only_run(finished) / "metrics.json")
    assert metrics["networks"]["teacher"] != before["networks"]["teacher"]
    assert metrics["networks"]["independent"] != before["networks"]["independent"]
