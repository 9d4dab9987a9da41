"""DD-Ranking's scores: the formulas, the students that they need, and the command."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from support.cli import Cli
from support.small_run import only_run, read_rows

from dire_plug.commands.rank import render
from dire_plug.errors import DirePlugError
from dire_plug.files import read_json
from dire_plug.recipe.evaluate import (
    DeltSection,
    DwaTinySection,
    EnsembleLabelsSection,
    EvaluateSection,
    HardLabelsSection,
    OnTheFlySection,
)
from dire_plug.seeding import derive
from dire_plug.sets import rank as ranking
from dire_plug.sets import robust_scores as scores
from dire_plug.sets.opened import SetRequest
from dire_plug.sets.rank import rank_set
from dire_plug.sets.robust_scores import RankedSet
from dire_plug.stages import evaluate
from dire_plug.training.protocols import train_student
from dire_plug.training.students import StudentData
from dire_plug.ui import show

STUDENTS: Any = {"students": ("resnet-small",)}


def test_scores_are_those_of_the_formulas() -> None:
    recovery = scores.hard_label_recovery(full_hard=0.9, set_hard=0.5)
    improvement = scores.improvement_over_random(of_set=0.7, of_random=0.6)
    assert [recovery, improvement] == pytest.approx([0.4, 0.1])
    # by hand: α = .5·.1 − .5·.4 = −.15, and (.860708 − .367879) / 2.350402
    assert scores.label_robust_score(recovery=0.4, improvement=0.1) == pytest.approx(0.209679, abs=1e-6)
    assert scores.label_robust_score(recovery=0.4, improvement=0.1, weight=1) == scores.squash(0.1)
    # β = .25·.1 + .75·(−.3) = −.2, and (.818731 − .367879) / 2.350402
    assert scores.augmentation_robust_score(augmented=0.1, plain=-0.3, weight=0.25) == pytest.approx(0.191819, abs=1e-6)


def test_scores_reach_from_nought_to_one() -> None:
    assert (scores.squash(-1), scores.squash(1)) == (0, 1)
    assert scores.squash(0) == pytest.approx(1 / (math.e + 1))


def test_percent_and_weights_outside_of_nought_to_one_are_refused() -> None:
    with pytest.raises(DirePlugError, match=r"fractions in \[0, 1\], not \(90, 0.5\)"):
        scores.hard_label_recovery(full_hard=90, set_hard=0.5)
    with pytest.raises(DirePlugError, match="fractions"):
        scores.improvement_over_random(of_set=0.5, of_random=-0.1)
    for weight in (-0.1, 1.5):
        with pytest.raises(DirePlugError, match="the weight must be in"):
            scores.label_robust_score(recovery=0, improvement=0, weight=weight)


def test_hard_labels_keep_the_recipes_students_and_length() -> None:
    own = OnTheFlySection(
        protocol="on-the-fly", epochs=7, batch_size=9, test_from=2, test_every=3, per_synthesis=4, **STUDENTS
    )
    hard = ranking.with_hard_labels(own, lr=0.05)
    assert isinstance(hard, HardLabelsSection)
    assert (hard.lr, hard.dsa, hard.source, hard.students) == (0.05, "none", "saved", ("resnet-small",))
    assert (hard.epochs, hard.batch_size, hard.test_from, hard.test_every, hard.per_synthesis) == (7, 9, 2, 3, 4)


def test_hard_labels_of_a_recipes_own_lose_their_augmentation_alone() -> None:
    own = HardLabelsSection(protocol="hard-labels", lr="learned", whiten=True, **STUDENTS)
    assert ranking.with_hard_labels(own, lr=0.05) == own.model_copy(update={"dsa": "none"})


def test_nothing_augments_or_mixes_without_augmentation() -> None:
    plain = ranking.without_augmentation(OnTheFlySection(protocol="on-the-fly", mixup=0.8, lr=0.5, **STUDENTS))
    assert isinstance(plain, OnTheFlySection)
    assert (plain.augmentation, plain.padding, plain.mixup, plain.cutmix, plain.lr) == ("none", 0, 0, 0, 0.5)
    tiny = ranking.without_augmentation(DwaTinySection(protocol="dwa-tiny", **STUDENTS))
    ensemble = ranking.without_augmentation(EnsembleLabelsSection(protocol="ensemble-labels", **STUDENTS))
    assert tiny.model_dump()["cutmix"] == ensemble.model_dump()["cutmix"] == 0
    hard = ranking.without_augmentation(HardLabelsSection(protocol="hard-labels", **STUDENTS))
    assert hard.model_dump()["dsa"] == "none"
    with pytest.raises(DirePlugError, match="'delt' always crops and flips"):
        ranking.without_augmentation(DeltSection(protocol="delt", **STUDENTS))


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, int, int]]:
    """The protocol, augmentation, images and epochs of each student that is trained."""
    seen = list[tuple[str, str, int, int]]()

    def note(*arguments: Any, data: StudentData, section: EvaluateSection, **rest: Any) -> Any:
        values = section.model_dump()
        augments = str(values.get("augmentation", values.get("dsa")))
        seen.append((values["protocol"], augments, len(data.labels), values["epochs"]))
        return train_student(*arguments, data=data, section=section, **rest)

    monkeypatch.setattr(evaluate, "train_student", note)
    return seen


@pytest.fixture
def own_run(finished_home: Path) -> Path:
    """The finished run in a home of the test's own."""
    return only_run(finished_home)


def test_a_run_is_ranked_by_students_of_it_of_random_images_and_of_all(
    cli: Cli, own_run: Path, tmp_path: Path, trained: list[Any]
) -> None:
    answer = cli("rank", own_run, "--json")
    assert answer.code == 0, answer.err
    own, plain, hard = ("on-the-fly", "crop"), ("on-the-fly", "none"), ("hard-labels", "none")
    wanted = [(*one, 20, 2) for one in (own, hard, hard, plain, plain)] + [(*hard, 100, 2)]
    assert sorted(trained) == sorted(wanted)  # not the run's own student, which is there
    (found,) = json.loads(answer.out)
    accuracies = {name: value["resnet-small"]["last"][0] for name, value in found["accuracies"].items()}
    student = read_json(own_run / "metrics.json")["accuracy"]["students"]["resnet-small"]
    assert accuracies["set_own"] == student["last"][0]
    told = found["scores"]["last"]["resnet-small"]
    assert told["hlr"] == [pytest.approx((accuracies["full_hard"] - accuracies["set_hard"]) / 100)]
    assert told["ior_plain"] == [pytest.approx((accuracies["set_plain"] - accuracies["random_plain"]) / 100)]
    assert told["lrs"] == [scores.label_robust_score(recovery=told["hlr"][0], improvement=told["ior"][0])]
    assert told["ars"] == [scores.augmentation_robust_score(augmented=told["ior"][0], plain=told["ior_plain"][0])]
    shown = cli("rank", own_run).out
    row = next(cells for cells in read_rows(shown) if cells[0] == own_run.name)
    assert row[1:5] == ["resnet-small", "0", "1", f"{100 * told['lrs'][0]:.1f}"]
    assert "all 100 training images in 2 epochs, 8 steps; a student of the set takes 2" in shown
    assert "no spread" in shown


def test_students_are_found_again_and_all_images_are_shared_by_sets(
    cli: Cli, home: Path, baseline: Path, tmp_path: Path, trained: list[Any]
) -> None:
    first = cli("rank", baseline)
    trained.clear()
    again = cli("rank", baseline)
    assert not trained
    assert again.out.splitlines()[:-1] == first.out.splitlines()[:-1]
    copy = shutil.copytree(baseline / "images", tmp_path / "condensed")
    (copy / "new000").rename(copy / "unused")
    (copy / "new001").rename(copy / "new000")
    (copy / "unused").rename(copy / "new001")
    other = cli("rank", copy, "--recipe", baseline / "recipe.yaml")
    assert other.code == 0, other.err
    assert len(trained) == 3  # the three kinds of students of the set itself


@pytest.mark.parametrize("change", ["an image in the run", "an image too many", "an image in the store", "a part"])
def test_the_runs_own_student_is_only_taken_for_the_runs_own_images(
    finished_home: Path, own_run: Path, trained: list[Any], change: str
) -> None:
    first, other = sorted((own_run / "images").rglob("*.jpg"))[:2]
    if change == "an image in the run":
        first.chmod(0o644)
        first.write_bytes(other.read_bytes())
    elif change == "an image too many":
        for label in range(10):
            folder = own_run / "images" / f"new{label:03d}"
            shutil.copyfile(next(folder.iterdir()), folder / "z.jpg")
    elif change == "an image in the store":
        kept = sorted(finished_home.glob("store/pass/*/images/*/*.jpg"))[0]
        kept.chmod(0o644)
        kept.write_bytes(b"another image")
    rank_set(SetRequest(own_run, ipc=1 if change == "a part" else None), full_accuracy=90)
    images = {"an image too many": 30, "a part": 10}.get(change, 20)
    assert ("on-the-fly", "crop", images, 2) in trained[:1]


def test_an_interrupted_ranking_keeps_the_students_that_are_finished(
    home: Path, baseline: Path, trained: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    second = derive(0, "student", 1)

    def interrupt(*arguments: Any, section: EvaluateSection, seed: int, **rest: Any) -> Any:
        if seed == second and section.protocol == "hard-labels":
            raise KeyboardInterrupt
        return train_student(*arguments, section=section, seed=seed, **rest)

    request = SetRequest(baseline, settings=("evaluate.epochs=3",))
    with monkeypatch.context() as patch:
        patch.setattr(evaluate, "train_student", interrupt)
        with pytest.raises(KeyboardInterrupt):
            rank_set(request, full_accuracy=90, per_set=2)
    trained.clear()
    rank_set(request, full_accuracy=90, per_set=2)
    assert len([1 for protocol, _, _, _ in trained if protocol == "hard-labels"]) == 3  # of the set's two, the second


def test_a_given_accuracy_stands_for_students_of_all_images(home: Path, baseline: Path, trained: list[Any]) -> None:
    found = rank_set(SetRequest(baseline), full_accuracy=90, weight=0)
    assert all(images == 20 for _, _, images, _ in trained)
    hard = found.accuracies["set hard"]["resnet-small"]["last"][0]
    assert found.scores("resnet-small")["HLR"] == [pytest.approx(0.9 - hard / 100)]
    assert found.scores("resnet-small")["LRS"] == [pytest.approx(scores.squash(hard / 100 - 0.9))]
    assert found.budget is None


def test_students_of_all_images_learn_as_long_as_those_of_the_set(home: Path, baseline: Path) -> None:
    settings = ("evaluate.batch_size=10", "evaluate.epochs=2")
    budgets = [rank_set(SetRequest(baseline, ipc=ipc, settings=settings)).budget for ipc in (None, 1)]
    assert [budget and budget["subset_steps"] for budget in budgets] == [4, 2]


def test_of_several_learning_rates_each_condition_takes_its_best(home: Path, baseline: Path) -> None:
    rates = (1e-9, 0.1)
    found = rank_set(SetRequest(baseline), rates=rates, full_accuracy=90)
    alone = {rate: rank_set(SetRequest(baseline), rates=(rate,), full_accuracy=90) for rate in rates}
    for name in ("set", "random"):
        accuracy = {rate: one.accuracies[f"{name} hard"]["resnet-small"]["mean"] for rate, one in alone.items()}
        assert found.accuracies[f"{name} hard"]["resnet-small"]["mean"] == max(accuracy.values())
        assert accuracy[float(found.rates[name])] == max(accuracy.values())


def test_what_cannot_be_ranked_is_told(
    cli: Cli, home: Path, baseline: Path, tmp_path: Path, trained: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = shutil.copytree(baseline / "images", tmp_path / "condensed")
    next(iter((copy / "new003").iterdir())).unlink()
    answer = cli("rank", copy, "--recipe", baseline / "recipe.yaml")
    assert answer.code == 2
    assert "classes hold 1 to 2 images; students are compared at as many of each: --ipc 1 takes the first" in answer.err
    assert "--ipc 1" in answer.err
    assert cli("rank", tmp_path / "nothing", "--real", "digits").code == 2
    monkeypatch.setattr(ranking, "MOST_BYTES", 1 << 14)
    answer = cli("rank", baseline)
    assert answer.code == 2
    assert not trained  # it is told before anything is done
    assert "--full-accuracy PERCENT" in answer.err


@pytest.mark.parametrize("command", ["measure", "rank"])
def test_too_few_real_images_for_a_set_are_told_first(
    cli: Cli, home: Path, recipe: Path, tmp_path: Path, trained: list[Any], command: str
) -> None:
    images = torch.zeros(2000, 3, 8, 8, dtype=torch.uint8)
    torch.save({"images": images, "labels": torch.arange(2000) % 10}, tmp_path / "many.pt")
    more = ("--nearest-k", 1000) if command == "measure" else ()
    answer = cli(command, tmp_path / "many.pt", "--real", "digits", "--recipe", recipe, *more)
    assert answer.code == 2
    expected = "1000 neighbours take 1001 images" if command == "measure" else "200 per class were asked for"
    assert expected in answer.err
    assert not trained


def test_every_set_is_opened_before_the_first_is_ranked(
    cli: Cli, home: Path, baseline: Path, tmp_path: Path, trained: list[Any]
) -> None:
    answer = cli("rank", baseline, tmp_path / "missing.npz", "--real", "digits", "--recipe", baseline / "recipe.yaml")
    assert answer.code == 2
    assert "missing.npz" in answer.err
    assert not trained


def make_ranked(**changes: Any) -> RankedSet:
    def made(*values: float) -> dict[str, Any]:
        return {"resnet-small": {"last": list(values), "best": list(values), "mean": sum(values) / len(values)}}

    accuracies = {"set own": made(70, 72), "random own": made(60, 62), "set hard": made(50, 50)}
    content: dict[str, Any] = {
        "condensed": {"name": "a set", "images": 20, "classes": 10, "per_class": {"least": 2, "most": 2}, "notes": []},
        "recipe": "delt/quick",
        "seed": 3,
        "weight": 0.5,
        "accuracies": accuracies,
        "full_accuracy": 90,
        "rates": {"set": 0.01},
        "budget": None,
        "notes": ("no ARS: because",),
    }
    return RankedSet(**content | changes)


def test_a_score_that_is_not_known_is_shown_so(capsys: pytest.CaptureFixture[str]) -> None:
    show(render([make_ranked()]))
    out = capsys.readouterr().out
    rows = [cells for cells in read_rows(out) if cells[0] == "a set"]
    assert rows[0] == ["a set", "resnet-small", "3", "2", "21.0 ± 0.0", "–", "40.0 ± 0.0", "10.0 ± 0.0", "–"]
    assert rows[1] == ["a set", "resnet-small", "71.0 ± 1.4", "61.0 ± 1.4", "–", "–", "50.0 ± 0.0", "–", "–"]
    assert "no ARS: because" in out
    assert "full hard: 90 %, as it was given" in out
