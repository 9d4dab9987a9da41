"""Arms of real images: the choice against slow obvious loops, each arm through a tiny run, the budget of `full`."""

import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.cli import Cli
from support.small_run import only_run, read_rows, run_folders, write_recipe
from torch import Tensor

from dire_plug.data.dataset import TensorSplit
from dire_plug.data.subsets import choose_by_herding, choose_by_k_center, choose_by_k_means
from dire_plug.errors import DirePlugError
from dire_plug.pipeline import Request, Run, plan_run, run_arm, with_data
from dire_plug.recipe.evaluate import HardLabelsSection, Sre2lTinySection
from dire_plug.stages import real_images
from dire_plug.stages.embed import ensure_embeddings
from dire_plug.stages.images import save_images
from dire_plug.stages.real_images import check_memory, plan_budget, with_budget
from dire_plug.stages.squeeze import squeeze
from dire_plug.store.runs import RunFolder

CHOSEN = ("herding", "k-center", "k-means")
Choose = Callable[[Tensor, int], Tensor]


def by_k_means(values: Tensor, count: int) -> Tensor:
    return choose_by_k_means(values, count, seed=0)


RULES: list[Choose] = [choose_by_herding, choose_by_k_center, by_k_means]


def draw(rows: int = 40, width: int = 6, seed: int = 0) -> Tensor:
    """Return embeddings like those after ReLU and average pooling: none negative, their mean far from 0."""
    return torch.rand(rows, width, generator=torch.Generator().manual_seed(seed)) ** 2 + 1


# The mathematics, against loops.


def mean_of(rows: list[list[float]]) -> list[float]:
    return [math.fsum(column) / len(rows) for column in zip(*rows, strict=True)]


def herd_slowly(rows: list[list[float]], count: int) -> list[int]:
    """Try every row that is left, and keep the one whose mean with the chosen ones is nearest to the mean of all."""
    centre, chosen = mean_of(rows), list[int]()
    while len(chosen) < count:
        left = [row for row in range(len(rows)) if row not in chosen]
        chosen.append(min(left, key=lambda row: math.dist(centre, mean_of([rows[i] for i in [*chosen, row]]))))
    return chosen


def cover_slowly(rows: list[list[float]], count: int) -> list[int]:
    """Take the row nearest to the mean, then again and again the one farthest from its nearest chosen one."""
    centre = mean_of(rows)
    chosen = [min(range(len(rows)), key=lambda row: math.dist(centre, rows[row]))]
    while len(chosen) < count:
        left = [row for row in range(len(rows)) if row not in chosen]
        chosen.append(max(left, key=lambda row: min(math.dist(rows[row], rows[other]) for other in chosen)))
    return chosen


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("count", [1, 2, 7, 39, 40])
def test_herding_and_k_center_choose_what_a_slow_loop_chooses(seed: int, count: int) -> None:
    values = draw(seed=seed)
    assert choose_by_herding(values, count).tolist() == herd_slowly(values.double().tolist(), count)
    assert choose_by_k_center(values, count).tolist() == cover_slowly(values.double().tolist(), count)


def test_herding_by_hand() -> None:
    # mean 3; 4 is nearest, with it 2 gives 3 exactly; then (4 + 2 + x)/3 is nearest to 3 with x = 1, by 2/3, not 8
    assert choose_by_herding(torch.tensor([[8.0], [1.0], [4.0], [2.0], [0.0]]), 3).tolist() == [2, 3, 1]


def test_k_center_by_hand() -> None:
    # mean 3: 4; then the farthest, 8 or 0 (both by 4, the earlier row wins), then the other one
    assert choose_by_k_center(torch.tensor([[8.0], [1.0], [4.0], [2.0], [0.0]]), 3).tolist() == [2, 0, 4]


def test_k_means_takes_the_row_nearest_to_each_centre() -> None:
    groups = [draw(rows=9 + group, seed=group) + 50 * group for group in range(4)]
    order = torch.randperm(42, generator=torch.Generator().manual_seed(5))
    nearest, start = [], 0
    for group in groups:
        rows = group.double().tolist()
        nearest.append(start + min(range(len(rows)), key=lambda row: math.dist(rows[row], mean_of(rows))))
        start += len(rows)
    chosen = by_k_means(torch.cat(groups)[order], 4)
    assert sorted(order[chosen].tolist()) == nearest
    assert chosen.tolist() == sorted(chosen.tolist())


@pytest.mark.parametrize("choose", [choose_by_herding, choose_by_k_center])
def test_a_smaller_choice_is_the_beginning_of_a_larger_one(choose: Choose) -> None:
    assert choose(draw(), 5).tolist() == choose(draw(), 30).tolist()[:5]


def test_one_image_is_the_one_nearest_to_the_mean_by_every_rule() -> None:
    values = draw(rows=30)
    nearest = int((values - values.mean(0)).norm(dim=1).argmin())
    assert [choose(values, 1).tolist() for choose in RULES] == [[nearest]] * 3


@pytest.mark.parametrize("choose", RULES)
def test_equal_embeddings_are_chosen_once_each_and_nothing_warns(choose: Choose) -> None:
    values = torch.tensor([[0.0, 1.0]] * 3 + [[2.0, 1.0]] * 3)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert len(set(choose(values, 5).tolist())) == 5
        assert sorted(choose(values, 6).tolist()) == list(range(6))
    assert not told


@pytest.mark.parametrize("choose", RULES)
def test_the_choice_does_not_move_with_the_origin(choose: Choose) -> None:
    values = draw().double()
    assert torch.equal(choose(values, 7), choose(values - 100, 7))


def test_the_seed_decides_k_means_alone() -> None:
    values = draw(rows=200)
    assert torch.equal(choose_by_k_means(values, 9, seed=1), choose_by_k_means(values, 9, seed=1))
    assert len({tuple(choose_by_k_means(values, 9, seed=seed).tolist()) for seed in range(5)}) > 1


@pytest.mark.parametrize("choose", RULES)
@pytest.mark.parametrize(
    ("values", "count", "message"),
    [
        (draw(rows=4), 5, "5 images can't be chosen out of 4; ask for 1 to 4"),
        (draw(rows=4), 0, "0 images can't be chosen out of 4"),
        (torch.ones(4), 1, r"their shape is \[4\]; \[N, D\] with at least one row is needed"),
        (torch.ones(0, 3), 1, r"their shape is \[0, 3\]"),
        (torch.tensor([[1.0], [math.nan], [math.inf]]), 1, "2 of 3 rows hold NaN or infinity"),
    ],
)
def test_what_can_not_be_chosen_from_is_refused(choose: Choose, values: Tensor, count: int, message: str) -> None:
    with pytest.raises(DirePlugError, match=message):
        choose(values, count)


# Through a run.


def request(recipe: Path, arm: str, **more: Any) -> Request:
    return Request("sre2l", recipe=str(recipe), arm=arm, engine="native", **more)


def run_of(recipe: Path, arm: str, **more: Any) -> Run:
    return with_data(plan_run(request(recipe, arm, **more)))


def chosen_by(run: Path) -> Tensor:
    return load_file(run / "images.safetensors")["indices"]


@pytest.mark.parametrize("arm", CHOSEN)
def test_a_run_takes_what_its_rule_chooses_in_the_teachers_embeddings(home: Path, recipe: Path, arm: str) -> None:
    metrics = run_arm(request(recipe, arm)).metrics
    run, found = run_of(recipe, arm), load_file(only_run(home) / "images.safetensors")
    train = run.dataset.train
    assert found["labels"].tolist() == train.labels[found["indices"]].tolist() == [c for c in range(10) for _ in "ab"]
    assert found["numbers"].tolist() == [0, 1] * 10
    assert torch.equal((found["images"] * 255).round().to(torch.uint8), train.images(found["indices"]))
    assert len(list((only_run(home) / "images").rglob("*.jpg"))) == 20
    real = ensure_embeddings(run, squeeze(run).teacher)
    if arm != "k-means":
        choose = {"herding": herd_slowly, "k-center": cover_slowly}[arm]
        for label in range(10):
            own = torch.nonzero(real.labels == label).flatten()
            rows = choose(real.values[own].double().tolist(), 2)
            assert real.indices[own[rows]].tolist() == found["indices"][found["labels"] == label].tolist()
    assert (metrics["engine"], metrics["recover"]) == ("none", None)
    assert len(metrics["accuracy"]["students"]["resnet-small"]["last"]) == 1
    assert 0 < metrics["diversity"]["T"]["coverage"] <= 1


@pytest.mark.slow
def test_seeds_change_students_alone_but_with_k_means_the_images_too(home: Path, recipe: Path) -> None:
    for arm in CHOSEN:
        for seed in (0, 1):
            run_arm(request(recipe, arm, seed=seed, settings=("evaluate.epochs=1",)))
    first, second = ({p.name.rpartition("-")[0][:-2]: p for p in run_folders(home) if f"-{s}-" in p.name} for s in "01")
    same = {arm: torch.equal(chosen_by(first[arm]), chosen_by(second[arm])) for arm in CHOSEN}
    assert same == {"herding": True, "k-center": True, "k-means": False}
    students = {student_of(runs["herding"]) for runs in (first, second)}
    assert len(students) == 2


def student_of(run: Path) -> str:
    return next(name for name, role in RunFolder(run).artefacts().items() if role.startswith("student "))


@pytest.mark.parametrize("arm", CHOSEN)
def test_more_images_than_a_class_has_can_not_be_chosen(cli: Cli, home: Path, recipe: Path, arm: str) -> None:
    answer = cli("run", "sre2l", "--recipe", recipe, "--arm", arm, "--ipc", "11")
    assert (answer.code, answer.out) == (2, "")
    assert "error: class '0' of digits has 10 training images, 11 per class were asked for; lower the IPC" in answer.err


def test_an_arm_that_was_killed_while_it_wrote_its_images_chooses_again(
    home: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    def killed(folder: Path, *arguments: Any, **rest: Any) -> None:
        save_images(folder, *arguments, **rest)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(real_images, "save_images", killed)
        with pytest.raises(KeyboardInterrupt):
            run_arm(request(recipe, "k-means"))
    assert not list(home.glob("store/subset/*"))
    found = load_file(run_arm(request(recipe, "k-means")).folder.path / "images.safetensors")
    train = run_of(recipe, "k-means").dataset.train
    assert torch.equal((found["images"] * 255).round().to(torch.uint8), train.images(found["indices"]))


# The ceiling.


def test_full_learns_from_every_image_and_copies_none(home: Path, recipe: Path) -> None:
    metrics = run_arm(request(recipe, "full")).metrics
    run, batch = only_run(home), run_of(recipe, "full").recipe.evaluate.batch_size
    assert not (run / "images").exists()
    assert not (run / "images.safetensors").exists()
    assert metrics["accuracy"]["full"] == {
        "images": 100,
        "epochs": 2,
        "steps": 2 * math.ceil(100 / batch),
        "subset_steps": 2 * math.ceil(20 / batch),
    }
    assert set(metrics["accuracy"]["students"]) == {"resnet-small"}


def test_full_has_no_coverage_and_the_real_reference_of_the_other_arms(home: Path, recipe: Path) -> None:
    found = run_arm(request(recipe, "full")).metrics["diversity"]
    random = run_arm(request(recipe, "random")).metrics["diversity"]
    for space in ("T", "I"):
        assert (found[space]["coverage"], found[space]["class_coverage"]) == (None, None)
        assert 1 < found[space]["class_vendi"] < 100
        assert found[space].keys() == random[space].keys()
        assert found[space]["real"] == random[space]["real"]


def test_at_another_ipc_full_has_another_real_reference(home: Path, recipe: Path) -> None:
    two, three = (run_arm(request(recipe, "full", ipc=ipc)).metrics["diversity"] for ipc in (2, 3))
    random = run_arm(request(recipe, "random", ipc=3)).metrics["diversity"]
    for space in ("T", "I"):
        assert two[space]["class_vendi"] == three[space]["class_vendi"]
        assert two[space]["real"] != three[space]["real"] == random[space]["real"]


@pytest.mark.slow
def test_full_does_not_need_as_many_images_as_the_ipc_says(home: Path, recipe: Path) -> None:
    budget = run_arm(request(recipe, "full", ipc=11)).metrics["accuracy"]["full"]
    assert budget["images"] == 100


@pytest.mark.parametrize(
    ("epochs", "images", "expected"),
    [
        (400, 1000, 160),  # 400 epochs of 4 steps are 1600; an epoch of 10 steps, 160 times
        (401, 1000, 161),  # 1604 steps: one epoch more, since none may be missing
        (400, 100_000, 20),  # 2 epochs would do, and would be no ceiling
        (15, 100_000, 15),  # never more than the recipe's
        (400, 400, 400),  # all images are the subset: the recipe's own epochs
    ],
)
def test_the_budget_of_full_by_hand(recipe: Path, epochs: int, images: int, expected: int) -> None:
    run = with_images(run_of(recipe, "full"), images)
    section = run.recipe.evaluate.model_copy(update={"epochs": epochs, "batch_size": 100})
    budget = plan_budget(run, section, ipc=40)
    assert (budget.images, budget.epochs) == (images, expected)
    assert budget.steps == expected * math.ceil(images / 100)
    assert budget.subset_steps == 4 * epochs


def with_images(run: Run, count: int) -> Run:
    """Return the run with a training set of so many images of one pixel."""
    train = TensorSplit(torch.zeros(count, 1, 1, 1, dtype=torch.uint8), torch.arange(count) % 10)
    return replace(run, data=replace(run.dataset, train=train))


def test_what_is_counted_in_epochs_shrinks_with_them(recipe: Path) -> None:
    section = Sre2lTinySection(
        protocol="sre2l-tiny", students=("x",), epochs=200, test_from=100, test_every=7, warmup_epochs=10
    )
    run = with_images(run_of(recipe, "full"), 1_000_000)
    found = with_budget(section, plan_budget(run, section, ipc=2))
    assert isinstance(found, Sre2lTinySection)
    assert (found.epochs, found.warmup_epochs, found.test_from, found.test_every) == (20, 1, 10, 1)
    assert found.lr == section.lr


def test_a_training_set_that_does_not_fit_is_refused(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_of(recipe, "full")
    section = HardLabelsSection(protocol="hard-labels", students=("x",))
    hard = run.recipe.model_copy(update={"evaluate": section})
    monkeypatch.setattr(real_images, "MOST_BYTES", 100 * 3 * 64)
    check_memory(run)
    # hard labels too are learned from pixels, where the images would be too large in float
    check_memory(replace(run, resolved=replace(run.resolved, recipe=hard)))
    monkeypatch.setattr(real_images, "MOST_BYTES", 100 * 3 * 64 - 1)
    with pytest.raises(DirePlugError, match="arm 'full': the 100 training images of digits at 8 pixels take"):
        check_memory(run)


# The table.


@pytest.mark.slow
def test_every_arm_of_real_images_stands_in_one_table(cli: Cli, home: Path, tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "real.yaml", {"evaluate": {"epochs": 1}})
    arms = ("full", "random", *CHOSEN)
    answer = cli("compare", "sre2l", "--recipe", path, "--arms", ",".join(arms), "--seeds", "2")
    assert answer.code == 0, answer.err
    rows = read_rows(answer.out)
    for arm in arms:
        assert sum(row[0] == arm for row in rows) == 3, arm
    for row in [row for row in rows if row[0] == "full"][1:]:
        assert row[1:3] == ["–", "–"]
        assert "–" not in row[3:]
    lines = [line.strip() for line in answer.out.splitlines()]
    assert "full: all 100 training images, in 1 epoch (4 steps; IPC images per class get 1)" in lines
    assert "full: no coverage (–): its images are the ones to be covered, so each covers itself" in lines
    assert "herding, k-center: the same images with every seed, so the spread is over students alone" in lines
    assert any(line.startswith("herding, k-center, k-means: likewise, chosen by the teacher's") for line in lines)
    assert any(line.startswith("images:") for line in lines)


@pytest.mark.slow
def test_a_run_of_full_says_why_it_has_no_coverage(cli: Cli, home: Path, recipe: Path) -> None:
    answer = cli("run", "sre2l", "--recipe", recipe, "--arm", "full")
    assert answer.code == 0, answer.err
    assert "full: no coverage (–): its images are the ones to be covered" in answer.out


@pytest.mark.parametrize("arm", [*CHOSEN, "full"])
def test_a_dry_run_says_where_real_images_come_from(cli: Cli, bare_home: Path, recipe: Path, arm: str) -> None:
    answer = cli("run", "sre2l", "--recipe", recipe, "--arm", arm, "--dry-run")
    assert answer.code == 0, answer.err
    assert "engine: none" in answer.out
    (line,) = (line for line in answer.out.splitlines() if line.startswith("plan: "))
    assert ("the training set by" in line, "k-means" in line, "every training image" in line) == (
        arm in ("herding", "k-center"),
        arm == "k-means",
        arm == "full",
    )
    assert line.endswith("; nothing is synthesized")
    assert not bare_home.exists()
