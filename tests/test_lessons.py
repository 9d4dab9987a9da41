"""What students of each protocol learn from, and whole evaluations of all protocols, on 60 tiny images."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from dire_plug.stages.job import EXTRAS, WHITENING, Job
from dire_plug.stages.select import select_random
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file
from test_stages import MEAN, NETWORK, STD, StubAdapter, change, make_job
from torch import Generator, Tensor

from dire_plug.data.augment import normalise
from dire_plug.data.whitening import fit, load
from dire_plug.errors import DirePlugError
from dire_plug.files import write_json
from dire_plug.models.checkpoint import load as load_network
from dire_plug.protocols import PROTOCOLS
from dire_plug.recipe.evaluate import Evaluate
from dire_plug.recipe.model import SqueezeSection
from dire_plug.stages.evaluate import evaluate
from dire_plug.stages.lessons import IMAGENET_MEAN, IMAGENET_STD, prepare_lesson, with_rate
from dire_plug.stages.squeeze import Teachers, squeeze
from dire_plug.types import Adapter

CPU = torch.device("cpu")


@dataclass(frozen=True)
class WhitenedAdapter(StubAdapter):
    """Says that its loop's images are whitened."""

    def whitens(self, recover: Any) -> bool:
        return True


@dataclass(frozen=True)
class PlainAdapter(StubAdapter):
    """Says that its loop's images are normalised."""

    def whitens(self, recover: Any) -> bool:
        return False


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def job(shared: Path, tmp_path: Path) -> Job:
    one = replace(make_job(shared, tmp_path / "run"), adapter=cast(Adapter, PlainAdapter()))
    section = {"outputs": 4, "teacher": NETWORK, "independent": NETWORK, "others": {"second": {**NETWORK, "lr": 0.05}}}
    return change(one, squeeze=SqueezeSection.model_validate(section))


@pytest.fixture
def networks(job: Job) -> Teachers:
    return squeeze(job)


@pytest.fixture
def condensed(job: Job) -> tuple[Tensor, Tensor]:
    return select_random(job.dataset, ipc=3, seed=1)


def with_section(job: Job, protocol: str, **keys: Any) -> Job:
    values = {"protocol": protocol, "students": ["convnet-small"], **keys}
    return change(job, evaluate=TypeAdapter[Any](Evaluate).validate_python(values))


def lesson_of(job: Job, networks: Teachers, condensed: tuple[Tensor, Tensor]) -> Any:
    return prepare_lesson(job, load_network(networks.teacher, CPU), *condensed)


def leave_loop(job: Job, condensed: tuple[Tensor, Tensor]) -> Tensor:
    """Write the tensors that a loop leaves, unbounded ones among them."""
    loop = 3 * torch.randn(condensed[0].shape, generator=Generator().manual_seed(0))
    job.folder.mkdir(parents=True)
    tensors = {"images": condensed[0].float() / 255, "labels": condensed[1], "loop": loop}
    save_file(tensors, job.folder / "images.safetensors")
    return loop


FAST: dict[str, dict[str, Any]] = {
    "sre2l-tiny": {"warmup_epochs": 1, "lr": 0.01},
    "dwa-tiny": {"warmup_epochs": 1, "lr": 0.01},
    "delt": {"statistics": "teacher"},
    "on-the-fly": {"padding": 1},
    "static-labels": {"padding": 1},
    "dynamic-labels": {"padding": 1},
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_student_of_every_protocol_learns_more_than_chance(
    job: Job, networks: Teachers, condensed: tuple[Tensor, Tensor], protocol: str
) -> None:
    changed = with_section(job, protocol, epochs=30, batch_size=9, **FAST.get(protocol, {}))
    result = evaluate(changed, networks, *condensed)
    assert result["protocol"] == protocol
    assert result["students"]["convnet-small"]["best"][0] > 45


def test_only_protocols_that_ask_all_networks_depend_on_the_others(
    job: Job, networks: Teachers, condensed: tuple[Tensor, Tensor]
) -> None:
    alone = Teachers(networks.teacher, networks.independent, {})
    changes = {}
    for protocol in ("delt", "static-labels", "dynamic-labels", "ensemble-labels"):
        one = with_section(job, protocol, epochs=2, batch_size=9)
        curves = []
        for teachers in (networks, alone):
            evaluate(one, teachers, *condensed)
            curves.append((one.folder / "evaluate" / "convnet-small-0.json").read_text())
        changes[protocol] = curves[0] != curves[1]
    assert changes == {"delt": False, "static-labels": True, "dynamic-labels": True, "ensemble-labels": True}


def test_delt_normalises_by_imagenets_statistics_unless_told_otherwise(
    job: Job, networks: Teachers, condensed: tuple[Tensor, Tensor]
) -> None:
    test = job.dataset.test.images()
    published = lesson_of(with_section(job, "delt"), networks, condensed)
    consistent = lesson_of(with_section(job, "delt", statistics="teacher"), networks, condensed)
    assert torch.equal(published.test_images, normalise(test, IMAGENET_MEAN, IMAGENET_STD))
    assert torch.equal(consistent.test_images, normalise(test, MEAN, STD))


def test_delt_changes_images_by_randaugment_before_it_crops_them_only_where_it_is_asked_to(
    job: Job, networks: Teachers, condensed: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"operations": 3, "magnitude": 7.0, "std": 0.5}
    seen: list[dict[str, Any]] = []

    def invert(images: Tensor, *, generator: Generator, **settings: Any) -> Tensor:
        seen.append(settings)
        return 255 - images

    monkeypatch.setattr("dire_plug.data.rand_augment.rand_augment", invert)
    plain = lesson_of(with_section(job, "delt"), networks, condensed).view
    augmented = lesson_of(with_section(job, "delt", randaugment=asked), networks, condensed).view
    images = condensed[0]
    inverted = plain(255 - images, Generator().manual_seed(0))
    assert seen == []
    assert torch.equal(augmented(images, Generator().manual_seed(0)), inverted)
    assert seen == [asked]


def test_static_labels_are_those_of_images_that_are_only_normalised(
    job: Job, networks: Teachers, condensed: tuple[Tensor, Tensor]
) -> None:
    lesson = lesson_of(with_section(job, "static-labels"), networks, condensed)
    assert torch.equal(lesson.plain(condensed[0]), normalise(condensed[0], MEAN, STD))


def test_hard_labels_take_the_tensors_of_the_loop_as_they_are(
    job: Job, networks: Teachers, condensed: tuple[Tensor, Tensor]
) -> None:
    loop = leave_loop(job, condensed)
    lesson = lesson_of(with_section(job, "hard-labels"), networks, condensed)
    assert torch.equal(lesson.images, loop)
    assert torch.equal(lesson.test_images, normalise(job.dataset.test.images(), MEAN, STD))


def test_hard_labels_of_saved_files_are_normalised(
    job: Job, networks: Teachers, condensed: tuple[Tensor, Tensor]
) -> None:
    leave_loop(job, condensed)
    lesson = lesson_of(with_section(job, "hard-labels", source="saved"), networks, condensed)
    assert torch.equal(lesson.images, normalise(condensed[0], MEAN, STD))


def test_whitened_images_are_tested_on_a_whitened_test_set(
    job: Job, networks: Teachers, condensed: tuple[Tensor, Tensor]
) -> None:
    whitened = replace(with_section(job, "hard-labels", whiten=True), adapter=cast(Adapter, WhitenedAdapter()))
    loop = leave_loop(whitened, condensed)
    lesson = lesson_of(whitened, networks, condensed)
    transform = fit(job.dataset.train.images())
    assert torch.equal(lesson.images, loop)
    expected = transform.apply(job.dataset.test.images().float() / 255)
    assert torch.allclose(lesson.test_images, expected, atol=1e-5)


def test_the_runs_own_whitening_is_taken_where_there_is_one(
    job: Job, networks: Teachers, condensed: tuple[Tensor, Tensor]
) -> None:
    from dire_plug.data.whitening import save

    real = replace(with_section(job, "hard-labels", whiten=True), engine="none")
    save(job.folder / WHITENING, fit(job.dataset.test.images()))
    lesson = lesson_of(real, networks, condensed)
    expected = load(job.folder / WHITENING, CPU).apply(condensed[0].float() / 255)
    assert torch.allclose(lesson.images, expected, atol=1e-6)


def test_real_images_are_whitened_by_what_is_fitted_on_the_training_images(
    job: Job, networks: Teachers, condensed: tuple[Tensor, Tensor]
) -> None:
    real = replace(with_section(job, "hard-labels", whiten=True), engine="none")
    lesson = lesson_of(real, networks, condensed)
    expected = fit(job.dataset.train.images()).apply(condensed[0].float() / 255)
    assert torch.allclose(lesson.images, expected, atol=1e-6)
    assert set(load_file(job.folder / WHITENING)) == {"mean", "matrix", "inverse"}


@pytest.mark.parametrize(
    ("adapter", "whiten", "message"),
    [
        (PlainAdapter(), True, "loop are normalised; set evaluate.whiten=false"),
        (WhitenedAdapter(), False, "loop are whitened; set evaluate.whiten=true"),
    ],
)
def test_a_loop_of_another_space_is_refused(
    job: Job, networks: Teachers, condensed: tuple[Tensor, Tensor], adapter: Any, whiten: bool, message: str
) -> None:
    other = replace(with_section(job, "hard-labels", whiten=whiten), adapter=adapter)
    leave_loop(other, condensed)
    with pytest.raises(DirePlugError, match=message):
        lesson_of(other, networks, condensed)


def rate_of(job: Job) -> Any:
    section: Any = with_rate(job)
    return section.lr


def test_a_learned_rate_is_read_from_the_runs_extras(job: Job) -> None:
    learned = with_section(job, "hard-labels", lr="learned")
    write_json(job.folder / EXTRAS, {"learned_lr": 0.025})
    assert rate_of(learned) == 0.025
    assert rate_of(with_section(job, "hard-labels", lr=0.5)) == 0.5


def test_a_learned_rate_that_nobody_learned_is_refused(job: Job) -> None:
    with pytest.raises(DirePlugError, match=r"evaluate\.lr: is 'learned', but .*extras\.json; set evaluate\.lr to a"):
        with_rate(with_section(job, "hard-labels", lr="learned"))


def test_real_images_have_a_rate_of_their_own_in_the_place_of_a_learned_one(job: Job) -> None:
    real = replace(with_section(job, "hard-labels", lr="learned", lr_without=0.02), engine="none")
    assert rate_of(real) == 0.02


def test_another_learned_rate_trains_the_student_anew(
    job: Job, networks: Teachers, condensed: tuple[Tensor, Tensor]
) -> None:
    learned = with_section(job, "hard-labels", lr="learned", epochs=2)
    digests = []
    for rate in (0.01, 0.02):
        write_json(job.folder / EXTRAS, {"learned_lr": rate})
        evaluate(learned, networks, *condensed)
        digests.append((job.folder / "evaluate" / "convnet-small-0.json").read_text())
    assert digests[0] != digests[1]
