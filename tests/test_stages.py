"""Squeeze, embed, evaluate, measure and the files between them, on 60 tiny images of three classes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from dire_plug.stages.job import Job
from dire_plug.stages.select import select_random, select_real
from safetensors.torch import load_file
from torch import Tensor

from dire_plug.data import Dataset
from dire_plug.data.augment import normalise
from dire_plug.data.dataset import make_tensor_dataset
from dire_plug.errors import DirePlugError
from dire_plug.files import digest_file, read_json
from dire_plug.models import embed as embed_batch
from dire_plug.models.checkpoint import load, save
from dire_plug.protocols import students, training
from dire_plug.recipe.model import RealSection, Recipe
from dire_plug.stages import evaluate as evaluate_stage
from dire_plug.stages import network as network_stage
from dire_plug.stages.embed import chunks_as_released, embed, real_for_regularizer
from dire_plug.stages.evaluate import evaluate
from dire_plug.stages.images import read_saved, read_tensors, save_images
from dire_plug.stages.measure import measure
from dire_plug.stages.squeeze import squeeze
from dire_plug.stages.weights import read_weights
from dire_plug.types import Adapter, Script

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
CPU = torch.device("cpu")
NETWORK = {"architecture": "convnet-small", "epochs": 12, "lr": 0.1, "batch_size": 8, "padding": 1}
RECIPE: dict[str, Any] = {
    "name": "tiny",
    "title": "Tiny",
    "method": "stub",
    "upstream": {"repository": "somewhere", "commit": "0" * 40},
    "dataset": {"name": "stub"},
    "ipc": 2,
    "squeeze": {"outputs": 4, "teacher": NETWORK, "independent": NETWORK},
    "recover": {"script": "only", "flags": {}},
    "evaluate": {
        "protocol": "on-the-fly",
        "students": ["convnet-small"],
        "per_synthesis": 2,
        "epochs": 2,
        "lr": 0.01,
        "teacher_mode": "train",
    },
    "measure": {"nearest_k": 2},
}


@dataclass(frozen=True)
class StubAdapter:
    """Saves like SRe2L, in PNG."""

    name: str = "stub"

    @property
    def scripts(self) -> dict[str, Script]:
        return {"only": Script("only.py", classes=4, size=8, mean=MEAN, std=STD, stem="small", checkpoint="bare")}

    def image_path(self, label: int, image: int) -> str:
        return f"new{label:03d}/class{label:03d}_id{image:03d}.png"


def make_dataset(*, per_class: int = 15) -> Dataset:
    """Make three classes of noise, with bright columns, bright rows, or neither, in mixed order."""

    def draw(count: int, seed: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        labels = (torch.arange(3).repeat(count))[torch.randperm(3 * count, generator=generator)]
        pixels = torch.randint(0, 90, (3 * count, 3, 8, 8), generator=generator)
        bright = 150 * (torch.arange(8) // 2 % 2)
        pixels[labels == 0] += bright
        pixels[labels == 1] += bright[:, None]
        return pixels.to(torch.uint8), labels

    return make_tensor_dataset(
        "stub", train=draw(per_class, 0), test=draw(5, 1), classes=("columns", "rows", "neither")
    )


def change(job: Job, **sections: object) -> Job:
    return replace(job, recipe=job.recipe.model_copy(update=sections))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache with trained networks, so that each test doesn't train its own."""
    cache = tmp_path_factory.mktemp("cache")
    squeeze(make_job(cache, cache / "none"))
    return cache


def make_job(cache: Path, folder: Path) -> Job:
    return Job(
        recipe=Recipe.model_validate(RECIPE),
        arm="baseline",
        regularizers={},
        adapter=cast(Adapter, StubAdapter()),
        dataset=make_dataset(),
        seed=3,
        device=CPU,
        engine="native",
        folder=folder,
        cache=cache,
    )


@pytest.fixture
def job(shared: Path, tmp_path: Path) -> Job:
    return make_job(shared, tmp_path / "run")


@pytest.fixture
def condensed(job: Job) -> tuple[Tensor, Tensor]:
    return select_random(job.dataset, ipc=2, seed=0)


def refuse(*arguments: object, **named: object) -> None:
    raise AssertionError("must not be called")


def killing(epochs: int) -> Callable[..., Any]:
    """Return a `train` that is killed after some epochs."""
    genuine = training.train

    def killed_train(*arguments: Any, **named: Any) -> Any:
        def progress(done: int, **values: float) -> None:
            if done == epochs:
                raise KeyboardInterrupt

        return genuine(*arguments, **{**named, "progress": progress})

    return killed_train


def test_squeeze_trains_two_different_networks_and_says_how_good_they_are(job: Job) -> None:
    networks = squeeze(job)
    teacher = load(networks.teacher, CPU)
    assert (teacher.outputs, teacher.stem, teacher.mean, teacher.std) == (4, "small", MEAN, STD)
    digests = networks.digests()
    assert digests["teacher"] == digest_file(networks.teacher) != digests["independent"]
    test = job.dataset.test
    answers = teacher.model(normalise(test.images(), MEAN, STD)).argmax(dim=1)
    accuracy = read_json(networks.teacher.with_name("network.json"))["accuracy"]
    assert accuracy == pytest.approx(100 * (answers == test.labels).float().mean().item())
    assert accuracy > 60  # chance: 33
    assert not (networks.teacher.parent / "training").exists()


def test_a_cached_teacher_is_not_trained_again_and_seeds_of_runs_share_it(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = squeeze(job)
    monkeypatch.setattr(network_stage, "_train", refuse)
    assert squeeze(replace(job, seed=99)) == before


def test_other_settings_train_another_teacher(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_stage, "_train", refuse)
    section = job.recipe.squeeze
    other = section.model_copy(update={"teacher": section.teacher.model_copy(update={"lr": 0.06})})
    with pytest.raises(AssertionError, match="must not be called"):
        squeeze(change(job, squeeze=other))


def test_a_killed_squeeze_goes_on_to_the_same_network(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(training, "SAVE_SECONDS", 0.0)
        patch.setattr("dire_plug.protocols.training.train", killing(1))
        with pytest.raises(KeyboardInterrupt):
            squeeze(replace(job, cache=tmp_path / "cache"))
    assert list((tmp_path / "cache").glob("squeeze/*.partial/training/training.pt"))
    resumed = squeeze(replace(job, cache=tmp_path / "cache"))
    assert resumed.digests() == squeeze(job).digests()


def test_a_head_narrower_than_the_classes_is_refused(job: Job) -> None:
    with pytest.raises(DirePlugError, match=r"squeeze.outputs: 2 outputs can't tell the 3 classes of stub"):
        squeeze(change(job, squeeze=job.recipe.squeeze.model_copy(update={"outputs": 2})))


def test_a_checkpoint_is_taken_in_place_of_training(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = load(squeeze(job).independent, CPU)
    torch.save({"state_dict": {f"module.{k}": v for k, v in own.model.state_dict().items()}}, tmp_path / "ckpt.pth")
    section = job.recipe.squeeze
    given = section.teacher.model_copy(update={"checkpoint": str(tmp_path / "ckpt.pth")})
    monkeypatch.setattr(network_stage, "_train", refuse)
    taken = load(squeeze(change(job, squeeze=section.model_copy(update={"teacher": given}))).teacher, CPU)
    for name, tensor in own.model.state_dict().items():
        assert torch.equal(taken.model.state_dict()[name], tensor), name


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        ("nowhere.pth", r"nowhere\.pth is not a file"),
        ("torchvision:IMAGENET1K_V1", r"1000 outputs and the imagenet stem, the network here 4 and the small stem"),
    ],
)
def test_a_checkpoint_that_cannot_serve_is_refused(job: Job, checkpoint: str, message: str) -> None:
    section = job.recipe.squeeze
    given = section.teacher.model_copy(update={"checkpoint": checkpoint})
    with pytest.raises(DirePlugError, match=message):
        squeeze(change(job, squeeze=section.model_copy(update={"teacher": given})))


@pytest.fixture
def imagenet_job(job: Job, tmp_path: Path) -> Job:
    """A job whose networks have the outputs of ImageNet-1K, with a cache of its own."""
    section = job.recipe.squeeze.model_copy(update={"outputs": 1000})
    return replace(change(job, squeeze=section), cache=tmp_path / "cache")


def read_v1(job: Job, version: int = 1) -> dict[str, Tensor]:
    return read_weights(job, f"torchvision:IMAGENET1K_V{version}", architecture="resnet-18", stem="imagenet")


def refuse_download(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("torch.hub.download_url_to_file", refuse)


def test_unknown_torchvision_weights_name_the_nearest(imagenet_job: Job) -> None:
    with pytest.raises(DirePlugError, match=r"no weights 'IMAGENET1K_V9' of resnet-18 \(did you mean 'IMAGENET1K_V1'"):
        read_v1(imagenet_job, version=9)


def test_offline_no_weights_are_fetched_and_their_url_and_place_are_named(
    imagenet_job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_download(monkeypatch)
    with pytest.raises(DirePlugError) as caught:
        read_v1(replace(imagenet_job, offline=True))
    assert "is not in " + str(imagenet_job.cache / "torchvision" / "resnet18-f37072fd.pth") in str(caught.value)
    assert "get https://download.pytorch.org/models/resnet18-f37072fd.pth and put it there" in str(caught.value)


def test_weights_are_fetched_once_into_the_cache_and_it_is_said(
    imagenet_job: Job, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fetched: list[str] = []

    def fetch(url: str, path: str, hash_prefix: str, progress: bool) -> None:
        fetched.append(hash_prefix)
        torch.save({"weight": torch.ones(2)}, path)

    path = imagenet_job.cache / "torchvision" / "resnet18-f37072fd.pth"
    monkeypatch.setattr("torch.hub.download_url_to_file", fetch)
    monkeypatch.setattr("dire_plug.stages.weights.digest_file", lambda path: "f37072fd" + "0" * 56)
    assert torch.equal(read_v1(imagenet_job)["weight"], torch.ones(2))
    said = f"squeeze: fetching https://download.pytorch.org/models/resnet18-f37072fd.pth to {path}\n"
    assert (capsys.readouterr().err, fetched) == (said, ["f37072fd"])
    refuse_download(monkeypatch)
    assert torch.equal(read_v1(replace(imagenet_job, offline=True))["weight"], torch.ones(2))


def test_weights_that_cannot_be_fetched_name_url_and_place(imagenet_job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(url: str, path: str, **options: object) -> None:
        raise OSError("no route")

    monkeypatch.setattr("torch.hub.download_url_to_file", fail)
    with pytest.raises(
        DirePlugError, match=r"cannot be fetched \(no route\); get https.*18-f37072fd\.pth and put it to "
    ):
        read_v1(imagenet_job)


def test_another_file_under_the_name_of_published_weights_is_refused(imagenet_job: Job) -> None:
    path = imagenet_job.cache / "torchvision" / "resnet18-f37072fd.pth"
    path.parent.mkdir(parents=True)
    torch.save({"weight": torch.ones(2)}, path)
    with pytest.raises(DirePlugError, match=r"resnet18-f37072fd\.pth: is not the file of https://"):
        read_v1(imagenet_job)


def test_real_embeddings_are_sorted_by_class_and_stable(job: Job) -> None:
    network = squeeze(job).teacher
    found = embed(job, network)
    assert found.labels.tolist() == sorted(job.dataset.train.labels.tolist())
    for label in range(3):
        assert (
            found.indices[found.labels == label].tolist()
            == torch.nonzero(job.dataset.train.labels == label).flatten().tolist()
        )
    loaded = load(network, CPU)
    images = normalise(job.dataset.train.images(found.indices[:4]), MEAN, STD)
    torch.testing.assert_close(found.values[:4], embed_batch(loaded.model.eval(), images))


def test_embeddings_are_made_once(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    network = squeeze(job).teacher
    first = embed(job, network)
    monkeypatch.setattr("dire_plug.stages.embed._embed", refuse)
    assert embed(job, network).path == first.path
    with pytest.raises(AssertionError, match="must not be called"):
        embed(job, squeeze(job).independent)


def with_batch_norm(job: Job, folder: Path) -> Path:
    """Write an untrained network with BatchNorm, whose mode matters."""
    from dire_plug.models import build
    from dire_plug.models.checkpoint import Network

    model = training.initialised(lambda: build("resnet-small", outputs=4, stem="small"), 0)
    save(folder / "bn.safetensors", Network(model, "resnet-small", 4, "small", MEAN, STD))
    return folder / "bn.safetensors"


def test_train_mode_embeds_by_batch_statistics_and_leaves_the_network_alone(job: Job, tmp_path: Path) -> None:
    network = with_batch_norm(job, tmp_path)
    before = digest_file(network)
    found = embed(job, network, mode="train")
    expected = embed_batch(load(network, CPU).model.train(), normalise(job.dataset.train.images(), MEAN, STD))
    torch.testing.assert_close(found.values, expected[found.indices])
    assert not torch.allclose(found.values, embed(job, network).values)
    assert digest_file(network) == before


def test_by_default_a_regularizer_reads_all_real_images_by_class(job: Job) -> None:
    network = squeeze(job).teacher
    assert real_for_regularizer(job, network) == embed(job, network).path


def test_a_regularizer_can_read_the_first_images_of_each_class(job: Job) -> None:
    network = squeeze(job).teacher
    every = embed(job, network)
    found = load_file(real_for_regularizer(change(job, real=RealSection(per_class=2)), network))
    assert found["labels"].tolist() == [0, 0, 1, 1, 2, 2]
    for label in range(3):
        assert torch.equal(found["values"][found["labels"] == label], every.values[every.labels == label][:2])


def test_as_released_cuts_the_unsorted_training_set_into_chunks(job: Job) -> None:
    network = squeeze(job).teacher
    every = embed(job, network)
    unsorted = torch.empty_like(every.values)
    unsorted[every.indices] = every.values
    found = load_file(real_for_regularizer(change(job, real=RealSection(order="as_released")), network))
    assert found["labels"].tolist() == [0] * 15 + [1] * 15 + [2] * 15
    assert torch.equal(found["values"], unsorted)
    assert not torch.equal(found["values"], every.values)


def test_chunks_as_released_drop_what_is_left_over() -> None:
    values, labels = chunks_as_released(torch.arange(8.0)[:, None], 3)
    assert values.flatten().tolist() == [0, 1, 2, 3, 4, 5]
    assert labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_more_real_images_than_a_class_has_are_refused_by_its_name(job: Job) -> None:
    with pytest.raises(DirePlugError, match=r"real.per_class: class 'columns' of stub has 15 real images, 16"):
        real_for_regularizer(change(job, real=RealSection(per_class=16)), squeeze(job).teacher)


def test_evaluate_trains_every_student_and_summarises(job: Job, condensed: tuple[Tensor, Tensor]) -> None:
    result = evaluate(job, squeeze(job), *condensed)
    assert (result["protocol"], result["teacher_mode"], result["source"]) == ("on-the-fly", "train", "saved")
    student = result["students"]["convnet-small"]
    assert len(student["last"]) == len(student["best"]) == 2
    assert all(best >= last for best, last in zip(student["best"], student["last"], strict=True))
    assert student["mean"] == pytest.approx(sum(student["last"]) / 2)
    assert student["std"] == pytest.approx(abs(student["last"][0] - student["last"][1]) / 2**0.5)
    written = [read_json(job.folder / "evaluate" / f"convnet-small-{k}.json") for k in range(2)]
    assert [one["last"] for one in written] == student["last"]
    assert written[0]["seed"] != written[1]["seed"]
    assert not list((job.folder / "evaluate").glob("*.partial"))


def test_a_finished_student_is_not_trained_again(
    job: Job, condensed: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    networks = squeeze(job)
    result = evaluate(job, networks, *condensed)
    monkeypatch.setattr(evaluate_stage, "_train", refuse)
    assert evaluate(job, networks, *condensed) == result


def test_a_student_of_other_images_does_not_count_as_finished(
    job: Job, condensed: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    networks = squeeze(job)
    evaluate(job, networks, *condensed)
    monkeypatch.setattr(evaluate_stage, "_train", refuse)
    with pytest.raises(AssertionError, match="must not be called"):
        evaluate(job, networks, condensed[0].flip(3), condensed[1])


def test_a_killed_evaluation_goes_on_to_the_same_result(
    job: Job, condensed: tuple[Tensor, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks = squeeze(job)
    with monkeypatch.context() as patch:
        patch.setattr(training, "SAVE_SECONDS", 0.0)
        patch.setattr(students, "train", killing(1))
        with pytest.raises(KeyboardInterrupt):
            evaluate(job, networks, *condensed)
    assert list((job.folder / "evaluate").glob("convnet-small-0.partial/*/training.pt"))
    resumed = evaluate(job, networks, *condensed)
    assert resumed == evaluate(replace(job, folder=tmp_path / "undisturbed"), networks, *condensed)


def test_evaluation_starts_a_student_anew_with_another_run_seed(job: Job, condensed: tuple[Tensor, Tensor]) -> None:
    networks = squeeze(job)
    evaluate(job, networks, *condensed)
    one = read_json(job.folder / "evaluate" / "convnet-small-0.json")
    evaluate(replace(job, seed=4), networks, *condensed)
    other = read_json(job.folder / "evaluate" / "convnet-small-0.json")
    assert one["seed"] != other["seed"]


def test_float_images_are_evaluated_like_the_same_grey_levels(
    job: Job, condensed: tuple[Tensor, Tensor], tmp_path: Path
) -> None:
    networks = squeeze(job)
    images, labels = condensed
    as_float = evaluate(replace(job, folder=tmp_path / "float"), networks, images.float() / 255, labels)
    assert as_float == evaluate(job, networks, images, labels)


def test_normalised_images_are_refused(job: Job, condensed: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(DirePlugError, match=r"expected uint8 or float in \[0, 1\]; denormalise them"):
        evaluate(job, squeeze(job), normalise(condensed[0], MEAN, STD), condensed[1])


def test_measure_gives_both_spaces_with_real_images_beside(job: Job, condensed: tuple[Tensor, Tensor]) -> None:
    result = measure(job, squeeze(job), *condensed)
    assert set(result) == {"T", "I"}
    names = {"coverage", "class_coverage", "vendi", "class_vendi", "similarity", "density", "precision", "recall"}
    for space in result.values():
        assert names | {"real"} == set(space)
        assert names <= set(space["real"])
        assert 0 < space["coverage"] <= 1
    assert result["T"]["vendi"] != result["I"]["vendi"]


def test_equal_images_score_lower_than_real_ones(job: Job, condensed: tuple[Tensor, Tensor]) -> None:
    images, labels = condensed
    equal = images[::2].repeat_interleave(2, dim=0)
    result = measure(job, squeeze(job), equal, labels)["T"]
    assert result["similarity"] == pytest.approx(1, abs=1e-5)
    assert result["class_vendi"] == pytest.approx(1, abs=1e-3)
    assert result["class_vendi"] < result["real"]["class_vendi"]


def test_radii_and_reference_are_computed_once(
    job: Job, condensed: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    networks = squeeze(job)
    first = measure(job, networks, *condensed)
    for name in ("nearest_radii", "class_radii", "real_reference"):
        monkeypatch.setattr(f"dire_plug.metrics.{name}", refuse)
    assert measure(job, networks, *condensed) == first


def test_saved_images_come_back_by_class_then_image(tmp_path: Path, condensed: tuple[Tensor, Tensor]) -> None:
    images, labels = condensed
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    adapter = cast(Adapter, StubAdapter())
    save_images(tmp_path, adapter, images=images[order], labels=labels[order].tolist(), numbers=(order % 2).tolist())
    read, read_labels = read_saved(tmp_path, adapter, classes=3, ipc=2)
    assert torch.equal(read, images)
    assert torch.equal(read_labels, labels)


def test_float_images_are_saved_with_their_grey_levels_cut_off(tmp_path: Path) -> None:
    adapter = cast(Adapter, StubAdapter())
    pixels = torch.full((1, 3, 2, 2), 0.999)
    save_images(tmp_path, adapter, images=pixels, labels=[0], numbers=[0])
    assert read_saved(tmp_path, adapter, classes=1, ipc=1)[0].flatten().tolist() == [254] * 12


@pytest.fixture
def saved(tmp_path: Path, condensed: tuple[Tensor, Tensor]) -> Path:
    images, labels = condensed
    save_images(
        tmp_path, cast(Adapter, StubAdapter()), images=images, labels=labels.tolist(), numbers=[0, 1, 0, 1, 0, 1]
    )
    return tmp_path


def test_a_missing_image_is_named(saved: Path) -> None:
    (saved / "new001" / "class001_id001.png").unlink()
    with pytest.raises(DirePlugError, match=r"class001_id001\.png: image 1 of class 1 is missing"):
        read_saved(saved, cast(Adapter, StubAdapter()), classes=3, ipc=2)


def test_a_truncated_image_is_named(saved: Path) -> None:
    path = saved / "new002" / "class002_id000.png"
    path.write_bytes(path.read_bytes()[:120])
    with pytest.raises(DirePlugError, match=r"class002_id000\.png: the image is damaged"):
        read_saved(saved, cast(Adapter, StubAdapter()), classes=3, ipc=2)


def test_images_of_two_sizes_are_refused(saved: Path) -> None:
    save_images(saved, cast(Adapter, StubAdapter()), images=torch.zeros(1, 3, 4, 4), labels=[2], numbers=[1])
    with pytest.raises(DirePlugError, match=r"class002_id001\.png: is 4×4, the first image is 8×8"):
        read_saved(saved, cast(Adapter, StubAdapter()), classes=3, ipc=2)


def test_random_images_are_of_their_class_and_different(job: Job) -> None:
    images, labels = select_random(job.dataset, ipc=15, seed=1)
    assert labels.tolist() == [0] * 15 + [1] * 15 + [2] * 15
    assert len({tuple(pixels) for pixels in images.flatten(1).tolist()}) == 45
    for label in range(3):
        mine = job.dataset.train.images(torch.nonzero(job.dataset.train.labels == label).flatten())
        drawn = images[labels == label]
        assert sorted(drawn.flatten(1).tolist()) == sorted(mine.flatten(1).tolist())


def test_the_seed_decides_the_random_images(job: Job) -> None:
    first, _ = select_random(job.dataset, ipc=3, seed=1)
    assert torch.equal(select_random(job.dataset, ipc=3, seed=1)[0], first)
    assert not torch.equal(select_random(job.dataset, ipc=3, seed=2)[0], first)


def test_a_class_with_too_few_images_is_named(job: Job) -> None:
    with pytest.raises(DirePlugError, match="class 'columns' of stub has 15 training images, 16 per class"):
        select_random(job.dataset, ipc=16, seed=0)


def test_a_random_arm_leaves_files_and_tensors_of_the_same_images(job: Job) -> None:
    select_real(replace(job, arm="random"))
    images, labels = read_saved(job.folder / "images", job.adapter, classes=3, ipc=2)
    tensors, tensor_labels = read_tensors(job.folder)
    assert torch.equal((tensors * 255).round().to(torch.uint8), images)
    assert torch.equal(tensor_labels, labels)
    assert torch.equal(images, select_random(job.dataset, ipc=2, seed=job.seed)[0])


def test_damaged_tensors_are_refused_by_name(job: Job) -> None:
    select_real(replace(job, arm="random"))
    path = job.folder / "images.safetensors"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DirePlugError, match=r"images\.safetensors: cannot be read"):
        read_tensors(job.folder)
