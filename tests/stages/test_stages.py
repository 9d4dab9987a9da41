"""Squeeze, embed, evaluate, measure and the files between them, on 60 tiny images of three classes."""

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import pytest
import torch
from safetensors.torch import load_file
from support.stub_run import (
    CPU,
    MEAN,
    STD,
    StubAdapter,
    change,
    image_set,
    killing,
    make_run,
    random_set,
    with_seed,
    with_store,
)
from torch import Tensor

from dire_plug import ui
from dire_plug.data import Split
from dire_plug.data.augmentation.batch import normalise
from dire_plug.errors import DirePlugError
from dire_plug.files import digest_file, read_json
from dire_plug.models import build
from dire_plug.models import embed as embed_batch
from dire_plug.models.checkpoint import Network, load, save
from dire_plug.recipe.model import RealSection
from dire_plug.stages import squeeze as squeeze_stage
from dire_plug.stages.artefacts import Inputs, Networks, Role, name_embeddings, name_students, roles_in_loop
from dire_plug.stages.embed import (
    EmbeddedReal,
    chunks_as_released,
    embed,
    ensure_embeddings,
    make_all_embeddings,
    make_embeddings,
    real_file,
)
from dire_plug.stages.evaluate import STUDENT, evaluate
from dire_plug.stages.images import ImageSet, read_saved, read_tensors, save_images
from dire_plug.stages.measure import measure
from dire_plug.stages.real_images import select_random
from dire_plug.stages.recover import recover
from dire_plug.stages.squeeze import FACTS, FILE, find_exchanged, network_file, read_weights, squeeze
from dire_plug.store.artefacts import Store
from dire_plug.store.runs import Run
from dire_plug.training import loop as training
from dire_plug.training import students
from dire_plug.types import Adapter
from dire_plug.types.artefact import Artefact


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the networks, so that each test doesn't train its own."""
    root = tmp_path_factory.mktemp("store")
    squeeze(make_run(root))
    return root


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Run:
    shutil.copytree(trained, tmp_path / "store")
    return make_run(tmp_path / "store")


@pytest.fixture
def condensed(run: Run) -> ImageSet:
    return random_set(run, ipc=2, seed=0)


def kinds_made(run: Run) -> list[str]:
    """Return the kinds of the entries that this run's store object made, sorted."""
    return sorted(name.partition("/")[0] for name in run.store.made)


def test_squeeze_trains_two_different_networks_and_says_how_good_they_are(run: Run) -> None:
    networks = squeeze(run)
    file = network_file(run, networks.teacher)
    teacher = load(file, CPU)
    assert (teacher.outputs, teacher.stem, teacher.mean, teacher.std) == (4, "small", MEAN, STD)
    assert digest_file(file) != digest_file(network_file(run, networks.independent))
    test = run.dataset.test
    answers = teacher.model(normalise(test.images(), MEAN, STD)).argmax(dim=1)
    accuracy = read_json(file.with_name(FACTS))["accuracy"]
    assert accuracy == pytest.approx(100 * (answers == test.labels).float().mean().item())
    assert accuracy > 60  # chance: 33
    assert {path.name for path in file.parent.iterdir()} == {FILE, FACTS, "entry.json"}


def test_a_stored_teacher_is_not_trained_again_and_seeds_of_runs_share_it(run: Run) -> None:
    assert squeeze(with_seed(run, 99)) == squeeze(run)
    assert run.store.made == set()


def test_other_settings_train_another_teacher(run: Run) -> None:
    section = run.recipe.squeeze
    other = section.model_copy(update={"teacher": section.teacher.model_copy(update={"lr": 0.06, "epochs": 1})})
    assert squeeze(change(run, squeeze=other)).independent == squeeze(run).independent
    assert kinds_made(run) == ["network"]


def test_a_killed_squeeze_goes_on_to_the_same_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed, undisturbed = (with_store(briefly(make_run(tmp_path)), tmp_path / name) for name in ("killed", "whole"))
    with monkeypatch.context() as patch:
        patch.setattr(training, "SAVE_SECONDS", 0.0)
        patch.setattr(squeeze_stage, "train", killing(1))
        with pytest.raises(KeyboardInterrupt):
            squeeze(killed)
    assert list(killed.store.root.glob(f"work/network-*/training/{training.CHECKPOINT}"))
    networks = squeeze(killed)
    assert squeeze(undisturbed) == networks
    for network in (networks.teacher, networks.independent):
        assert killed.store.content(network) == undisturbed.store.content(network)


def briefly(run: Run) -> Run:
    """Return the run with networks that learn for three epochs."""
    section = run.recipe.squeeze
    brief = {name: getattr(section, name).model_copy(update={"epochs": 3}) for name in ("teacher", "independent")}
    return change(run, squeeze=section.model_copy(update=brief))


def test_a_head_narrower_than_the_classes_is_refused(run: Run) -> None:
    with pytest.raises(DirePlugError, match=r"squeeze.outputs: 2 outputs can't tell the 3 classes of stub"):
        squeeze(change(run, squeeze=run.recipe.squeeze.model_copy(update={"outputs": 2})))


def refuse(*arguments: object, **named: object) -> None:
    raise AssertionError("must not be called")


def refuse_training(patch: pytest.MonkeyPatch) -> None:
    for module in (squeeze_stage, students):
        patch.setattr(module, "train", refuse)


def test_a_checkpoint_is_taken_in_place_of_training(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = training.initialised(lambda: build("convnet-small", outputs=4, stem="small"), 5).state_dict()
    torch.save({"state_dict": {f"module.{name}": one for name, one in own.items()}}, tmp_path / "ckpt.pth")
    section = run.recipe.squeeze
    given = section.teacher.model_copy(update={"checkpoint": str(tmp_path / "ckpt.pth")})
    refuse_training(monkeypatch)
    networks = squeeze(change(run, squeeze=section.model_copy(update={"teacher": given})))
    taken = load(network_file(run, networks.teacher), CPU)
    for name, tensor in own.items():
        assert torch.equal(taken.model.state_dict()[name], tensor), name


def with_checkpoint(run: Run, path: Path, state: dict[str, Tensor]) -> Run:
    """Return the run whose teacher is read from a file of these weights."""
    torch.save(state, path)
    given = run.recipe.squeeze.teacher.model_copy(update={"checkpoint": str(path)})
    return change(run, squeeze=run.recipe.squeeze.model_copy(update={"teacher": given}))


def test_a_teacher_of_another_class_order_is_named_whenever_it_is_used(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = load(network_file(run, squeeze(run).teacher), CPU).model.state_dict()
    places = torch.tensor([1, 2, 0, 3])
    permuted = {name: one[places] if len(one) == 4 else one for name, one in own.items() if one.dim()}
    changed = with_checkpoint(run, tmp_path / "permuted.pt", permuted)
    good = read_json(network_file(run, squeeze(run).teacher).with_name(FACTS))["accuracy"]
    for _ in range(2):  # made, and found
        ui.configure()  # as when a command starts
        capsys.readouterr()
        squeeze(changed)
        said = capsys.readouterr().err
        assert re.search(r"^squeeze: teacher \(convnet-small\) has \d+\.\d\d % test accuracy$", said, re.MULTILINE)
        assert (
            "warning: squeeze: teacher (convnet-small) has its outputs in another order than the classes of stub: "
            f"reordered it would have {good:.2f} %. Class → the one whose output its images get: "
            "columns → neither, rows → columns, neither → rows. Reorder the rows"
        ) in said
        assert "guessing" not in said


def test_a_weak_teacher_is_warned_of(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blind = training.initialised(lambda: build("convnet-small", outputs=4, stem="small"), 5).state_dict()
    ui.configure()
    squeeze(with_checkpoint(run, tmp_path / "blind.pt", blind))
    said = capsys.readouterr().err
    assert "is too weak to teach or to judge by: guessing has 33.3 %; check that the checkpoint was trained on" in said
    assert "independent (convnet-small) is" not in said


@pytest.mark.parametrize(
    ("answers", "exchanged"),
    [
        ([[0, 0, 0], [1, 1, 1], [2, 2, 2]], []),
        ([[0, 0, 0], [2, 2, 1], [1, 1, 1]], [(1, 2), (2, 1)]),
        ([[7, 7, 0], [9, 9, 9], [2, 2, 2]], [(0, 7), (1, 9)]),  # a wider head
        ([[0, 0, 0], [0, 0, 1], [2, 2, 2]], []),  # taken for another that keeps its own
        ([[2, 2, 2], [2, 2, 2], [2, 2, 2]], []),  # one answer to everything
        ([[0, 0, 0], [7, 7, 7], [2, 2, 2]], []),  # one class alone
        ([[1, 0, 2], [0, 1, 2], [0, 1, 2]], []),  # guesses
    ],
)
def test_an_order_is_found_only_where_most_images_tell_it(
    answers: list[list[int]], exchanged: list[tuple[int, int]]
) -> None:
    found = find_exchanged(torch.tensor(answers).flatten(), torch.arange(3).repeat_interleave(3))
    assert found.get("exchanged", []) == exchanged


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        ("nowhere.pth", r"nowhere\.pth is not a file"),
        ("torchvision:IMAGENET1K_V1", r"1000 outputs and the imagenet stem, the network here 4 and the small stem"),
    ],
)
def test_a_checkpoint_that_cannot_serve_is_refused(run: Run, checkpoint: str, message: str) -> None:
    section = run.recipe.squeeze
    given = section.teacher.model_copy(update={"checkpoint": checkpoint})
    with pytest.raises(DirePlugError, match=message):
        squeeze(change(run, squeeze=section.model_copy(update={"teacher": given})))


@pytest.fixture
def imagenet_teacher(run: Run, bare_home: Path) -> Role:
    """A teacher with the outputs and the stem of ImageNet-1K, in a home of its own."""
    return replace(roles_in_loop(run)[0], stem="imagenet", outputs=1000)


def read_published(teacher: Role, version: int = 1, *, offline: bool = False) -> dict[str, Tensor]:
    given = {"architecture": "resnet-18", "checkpoint": f"torchvision:IMAGENET1K_V{version}"}
    return read_weights(replace(teacher, section=teacher.section.model_copy(update=given)), offline=offline)


def refuse_download(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("dire_plug.stages.squeeze.download_url_to_file", refuse)


def test_unknown_torchvision_weights_name_the_nearest(imagenet_teacher: Role) -> None:
    with pytest.raises(DirePlugError, match=r"no weights 'IMAGENET1K_V9' of resnet-18 \(did you mean 'IMAGENET1K_V1'"):
        read_published(imagenet_teacher, version=9)


def test_offline_no_weights_are_fetched_and_url_and_place_are_named(
    imagenet_teacher: Role, bare_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_download(monkeypatch)
    with pytest.raises(DirePlugError) as caught:
        read_published(imagenet_teacher, offline=True)
    assert "is not in " + str(bare_home / "downloads" / "torchvision" / "resnet18-f37072fd.pth") in str(caught.value)
    assert "get https://download.pytorch.org/models/resnet18-f37072fd.pth and put it there" in str(caught.value)


def test_weights_are_fetched_once_into_the_downloads_and_it_is_said(
    imagenet_teacher: Role, bare_home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fetched: list[str] = []

    def fetch(url: str, path: str, hash_prefix: str, progress: bool) -> None:
        fetched.append(hash_prefix)
        torch.save({"weight": torch.ones(2)}, path)

    path = bare_home / "downloads" / "torchvision" / "resnet18-f37072fd.pth"
    monkeypatch.setattr("dire_plug.stages.squeeze.download_url_to_file", fetch)
    monkeypatch.setattr("dire_plug.stages.squeeze.digest_file", lambda path: "f37072fd" + "0" * 56)
    assert torch.equal(read_published(imagenet_teacher)["weight"], torch.ones(2))
    said = f"squeeze: fetching https://download.pytorch.org/models/resnet18-f37072fd.pth to {path}\n"
    assert (capsys.readouterr().err, fetched) == (said, ["f37072fd"])
    refuse_download(monkeypatch)
    assert torch.equal(read_published(imagenet_teacher, offline=True)["weight"], torch.ones(2))


def test_weights_that_cannot_be_fetched_name_url_and_place(
    imagenet_teacher: Role, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(url: str, path: str, **options: object) -> None:
        raise OSError("no route")

    monkeypatch.setattr("dire_plug.stages.squeeze.download_url_to_file", fail)
    with pytest.raises(
        DirePlugError, match=r"cannot be fetched \(no route\); get https.*18-f37072fd\.pth and put it to "
    ):
        read_published(imagenet_teacher)


def test_another_file_under_the_name_of_published_weights_is_refused(imagenet_teacher: Role, bare_home: Path) -> None:
    path = bare_home / "downloads" / "torchvision" / "resnet18-f37072fd.pth"
    path.parent.mkdir(parents=True)
    torch.save({"weight": torch.ones(2)}, path)
    with pytest.raises(DirePlugError, match=r"resnet18-f37072fd\.pth: is not the file of https://"):
        read_published(imagenet_teacher)


def test_real_embeddings_are_sorted_by_class_and_stable(run: Run) -> None:
    network = squeeze(run).teacher
    found = ensure_embeddings(run, network)
    assert found.labels.tolist() == sorted(run.dataset.train.labels.tolist())
    for label in range(3):
        assert (
            found.indices[found.labels == label].tolist()
            == torch.nonzero(run.dataset.train.labels == label).flatten().tolist()
        )
    loaded = load(network_file(run, network), CPU)
    images = normalise(run.dataset.train.images(found.indices[:4]), MEAN, STD)
    torch.testing.assert_close(found.values[:4], embed_batch(loaded.model.eval(), images))


def test_embeddings_are_made_once_for_each_network(run: Run) -> None:
    networks = squeeze(run)
    first = ensure_embeddings(run, networks.teacher)
    assert torch.equal(ensure_embeddings(run, networks.teacher).values, first.values)
    assert run.store.made == {first.artefact.name}
    other = ensure_embeddings(run, networks.independent)
    assert run.store.made == {first.artefact.name, other.artefact.name}
    assert not torch.equal(other.values, first.values)


@dataclass(frozen=True, eq=False)
class CountedSplit:
    """A split that notes how many images it is asked for at a time."""

    split: Split
    asked: list[int] = field(default_factory=list)

    @property
    def labels(self) -> Tensor:
        return self.split.labels

    def __len__(self) -> int:
        return len(self.split)

    def images(self, indices: Tensor | None = None) -> Tensor:
        self.asked.append(len(self) if indices is None else len(indices))
        return self.split.images(indices)


def counted(run: Run) -> tuple[Run, CountedSplit, CountedSplit]:
    """Return the run with splits that count, and both."""
    train, test = CountedSplit(run.dataset.train), CountedSplit(run.dataset.test)
    return replace(run, data=replace(run.dataset, train=train, test=test)), train, test


def test_networks_that_lack_embeddings_see_the_images_of_one_decoding(run: Run, tmp_path: Path) -> None:
    networks = [*squeeze(run).all.values()]
    run, train, _ = counted(run)
    make_all_embeddings(run, networks)
    assert train.asked == [45]
    alone = with_store(run, tmp_path / "alone")
    shutil.copytree(run.store.root / "network", alone.store.root / "network")
    for network in networks:
        together, single = run.store.path(name_embeddings(run, network)), make_embeddings(alone, network)
        assert (together / single.name).read_bytes() == single.read_bytes()
    make_all_embeddings(run, networks)
    assert train.asked == 3 * [45]


def test_of_several_networks_only_those_that_lack_embeddings_embed(run: Run) -> None:
    networks = squeeze(run)
    found = ensure_embeddings(run, networks.teacher)
    make_all_embeddings(run, [networks.independent, networks.teacher])
    other = name_embeddings(run, networks.independent)
    assert run.store.made == {found.artefact.name, other.name}


def test_what_another_process_embeds_meanwhile_is_not_embedded_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    networks = squeeze(run)
    first, last = sorted((networks.teacher, networks.independent), key=lambda one: name_embeddings(run, one).name)
    theirs = name_embeddings(run, last)
    elsewhere = with_store(run, run.store.root)
    genuine = Store.ensure

    def ensure(store: Store, artefact: Artefact, make: Callable[[Path], None]) -> Path:
        # it comes while the first one is locked
        if store is run.store and artefact.name == theirs.name:
            make_embeddings(elsewhere, last)
        return genuine(store, artefact, make)

    monkeypatch.setattr(Store, "ensure", ensure)
    make_all_embeddings(run, [first, last])
    assert run.store.made == {name_embeddings(run, first).name}
    assert elsewhere.store.made == {theirs.name}


def test_the_stage_of_the_terms_embeds_for_the_metrics_too(run: Run) -> None:
    networks = squeeze(run)
    run, train, _ = counted(replace(run, resolved=replace(run.resolved, regularizers={"dire": {}})))
    embed(run, networks, Inputs())
    assert run.store.made == {name_embeddings(run, one).name for one in (networks.teacher, networks.independent)}
    assert train.asked == [45]


def test_measuring_decodes_each_split_once_for_both_networks(run: Run, condensed: ImageSet) -> None:
    networks = squeeze(run)
    run, train, test = counted(run)
    measure(run, networks, condensed)
    measure(run, networks, condensed)
    assert (train.asked, test.asked) == ([45], [15])


def with_batch_norm(run: Run) -> Artefact:
    """Put an untrained network with BatchNorm, whose mode matters, into the store."""
    artefact = Artefact("network", {"architecture": "resnet-small"})

    def make(folder: Path) -> None:
        model = training.initialised(lambda: build("resnet-small", outputs=4, stem="small"), 0)
        save(folder / FILE, Network(model, "resnet-small", 4, "small", MEAN, STD))

    run.store.ensure(artefact, make)
    return artefact


def test_train_mode_embeds_by_batch_statistics_and_changes_no_network(run: Run) -> None:
    network = with_batch_norm(run)
    file = network_file(run, network)
    before = digest_file(file)
    found = ensure_embeddings(run, network, mode="train")
    expected = embed_batch(load(file, CPU).model.train(), normalise(run.dataset.train.images(), MEAN, STD))
    torch.testing.assert_close(found.values, expected[found.indices])
    assert not torch.allclose(found.values, ensure_embeddings(run, network).values)
    assert digest_file(file) == before


def seen_by_a_term(run: Run, section: RealSection) -> tuple[Artefact, EmbeddedReal]:
    """Return what a term sees in T under a `real` section, and all real images in T."""
    networks = squeeze(run)
    with_term = replace(run, resolved=replace(run.resolved, regularizers={"dire": {}}))
    found = embed(change(with_term, real=section), networks, Inputs())
    assert list(found) == ["teacher"]
    return found["teacher"], ensure_embeddings(run, networks.teacher)


def test_without_a_term_no_real_image_is_embedded_for_it(run: Run) -> None:
    assert embed(run, squeeze(run), Inputs()) == {}
    assert run.store.made == set()


def test_by_default_a_regularizer_reads_all_real_images_by_class(run: Run) -> None:
    found, every = seen_by_a_term(run, RealSection())
    assert found.name == every.artefact.name == name_embeddings(run, squeeze(run).teacher).name


def test_a_regularizer_can_read_the_first_images_of_each_class(run: Run) -> None:
    real, every = seen_by_a_term(run, RealSection(per_class=2))
    found = load_file(real_file(run, real))
    assert found["labels"].tolist() == [0, 0, 1, 1, 2, 2]
    for label in range(3):
        assert torch.equal(found["values"][found["labels"] == label], every.values[every.labels == label][:2])


def test_as_released_cuts_the_unsorted_training_set_into_chunks(run: Run) -> None:
    real, every = seen_by_a_term(run, RealSection(order="as_released"))
    unsorted = torch.empty_like(every.values)
    unsorted[every.indices] = every.values
    found = load_file(real_file(run, real))
    assert found["labels"].tolist() == [0] * 15 + [1] * 15 + [2] * 15
    assert torch.equal(found["values"], unsorted)
    assert not torch.equal(found["values"], every.values)


def test_chunks_as_released_drop_what_is_left_over() -> None:
    values, labels = chunks_as_released(torch.arange(8.0)[:, None], 3)
    assert values.flatten().tolist() == [0, 1, 2, 3, 4, 5]
    assert labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_more_real_images_than_a_class_has_are_refused_by_its_name(run: Run) -> None:
    with pytest.raises(DirePlugError, match=r"real.per_class: class 'columns' of stub has 15 real images, 16"):
        seen_by_a_term(run, RealSection(per_class=16))


def students_of(run: Run, networks: Networks, images: ImageSet) -> list[Path]:
    """Return the files of the students that evaluate left."""
    named = name_students(run, networks, images.source, run.recipe.evaluate)
    return [run.store.path(one) / STUDENT for one in named["convnet-small"]]


def test_evaluate_trains_every_student_and_summarises(run: Run, condensed: ImageSet) -> None:
    networks = squeeze(run)
    result = evaluate(run, networks, condensed)
    assert (result["protocol"], result["teacher_mode"], result["source"]) == ("on-the-fly", "train", "saved")
    student = result["students"]["convnet-small"]
    assert len(student["last"]) == len(student["best"]) == 2
    assert all(best >= last for best, last in zip(student["best"], student["last"], strict=True))
    assert student["mean"] == pytest.approx(sum(student["last"]) / 2)
    assert student["std"] == pytest.approx(abs(student["last"][0] - student["last"][1]) / 2**0.5)
    files = students_of(run, networks, condensed)
    written = [read_json(file) for file in files]
    assert [one["last"] for one in written] == student["last"]
    assert written[0]["seed"] != written[1]["seed"]
    assert all({path.name for path in file.parent.iterdir()} == {STUDENT, "entry.json"} for file in files)
    assert list((run.store.root / "work").iterdir()) == []


def test_a_finished_student_is_not_trained_again(
    run: Run, condensed: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks = squeeze(run)
    result = evaluate(run, networks, condensed)
    refuse_training(monkeypatch)
    assert evaluate(with_store(run, run.store.root), networks, condensed) == result


def test_of_more_students_only_the_further_ones_are_trained(run: Run, condensed: ImageSet) -> None:
    networks = squeeze(run)
    two = evaluate(run, networks, condensed)["students"]["convnet-small"]
    assert kinds_made(run) == ["student", "student"]
    section = run.recipe.evaluate.model_copy(update={"per_synthesis": 3})
    three = evaluate(change(run, evaluate=section), networks, condensed)["students"]["convnet-small"]
    assert kinds_made(run) == ["student"] * 3
    assert three["last"][:2] == two["last"]


def test_students_of_other_images_are_other_students(run: Run, condensed: ImageSet) -> None:
    networks = squeeze(run)
    evaluate(run, networks, condensed)
    evaluate(run, networks, image_set(condensed.images.flip(3), condensed.labels))
    assert kinds_made(run) == ["student"] * 4


def test_a_killed_evaluation_goes_on_to_the_same_result(
    run: Run, condensed: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = with_store(run, tmp_path / "undisturbed")
    shutil.copytree(run.store.root, undisturbed.store.root)
    networks = squeeze(run)
    with monkeypatch.context() as patch:
        patch.setattr(training, "SAVE_SECONDS", 0.0)
        patch.setattr(students, "train", killing(1))
        with pytest.raises(KeyboardInterrupt):
            evaluate(run, networks, condensed)
    assert list(run.store.root.glob(f"work/student-*/training/{training.CHECKPOINT}"))
    assert evaluate(run, networks, condensed) == evaluate(undisturbed, networks, condensed)
    for one, other in zip(
        students_of(run, networks, condensed), students_of(undisturbed, networks, condensed), strict=True
    ):
        assert one.read_bytes() == other.read_bytes()


def test_another_seed_of_the_run_gives_students_of_other_seeds(run: Run, condensed: ImageSet) -> None:
    networks, seeds = squeeze(run), []
    for seed in (3, 4):
        seeded = with_seed(run, seed)
        evaluate(seeded, networks, condensed)
        seeds += [read_json(file)["seed"] for file in students_of(seeded, networks, condensed)]
    assert len(set(seeds)) == 4


def test_float_images_are_evaluated_like_the_same_grey_levels(run: Run, condensed: ImageSet) -> None:
    networks = squeeze(run)
    as_float = image_set(condensed.images.float() / 255, condensed.labels)
    assert evaluate(run, networks, as_float) == evaluate(run, networks, condensed)
    assert kinds_made(run) == ["student"] * 4


def test_normalised_images_are_refused(run: Run, condensed: ImageSet) -> None:
    with pytest.raises(DirePlugError, match=r"expected uint8 or float in \[0, 1\]; denormalise them"):
        evaluate(run, squeeze(run), image_set(normalise(condensed.images, MEAN, STD), condensed.labels))


def test_measure_gives_both_spaces_with_real_images_beside(run: Run, condensed: ImageSet) -> None:
    result = measure(run, squeeze(run), condensed)
    assert set(result) == {"T", "I"}
    names = {"coverage", "class_coverage", "vendi", "class_vendi", "similarity", "density", "precision", "recall"}
    for space in result.values():
        assert names | {"real"} == set(space)
        assert names <= set(space["real"])
        assert 0 < space["coverage"] <= 1
    assert result["T"]["vendi"] != result["I"]["vendi"]


def test_equal_images_score_lower_than_real_ones(run: Run, condensed: ImageSet) -> None:
    equal = image_set(condensed.images[::2].repeat_interleave(2, dim=0), condensed.labels)
    result = measure(run, squeeze(run), equal)["T"]
    assert result["similarity"] == pytest.approx(1, abs=1e-5)
    assert result["class_vendi"] == pytest.approx(1, abs=1e-3)
    assert result["class_vendi"] < result["real"]["class_vendi"]


def test_radii_and_reference_are_computed_once_for_all_sets_of_images(run: Run, condensed: ImageSet) -> None:
    networks = squeeze(run)
    first = measure(run, networks, condensed)
    shared = ["embeddings"] * 4 + ["radii"] * 2 + ["reference"] * 2
    assert kinds_made(run) == ["diversity"] * 2 + shared
    other = measure(run, networks, image_set(condensed.images.flip(3), condensed.labels))
    assert kinds_made(run) == ["diversity"] * 4 + shared
    assert [other[space]["real"] for space in other] == [first[space]["real"] for space in first]
    assert measure(run, networks, condensed) == first
    assert kinds_made(run) == ["diversity"] * 4 + shared


def test_saved_images_come_back_by_class_then_image(tmp_path: Path, condensed: ImageSet) -> None:
    images, labels = condensed.images, condensed.labels
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
def saved(tmp_path: Path, condensed: ImageSet) -> Path:
    images, labels = condensed.images, condensed.labels
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


def test_random_images_are_of_their_class_and_different(run: Run) -> None:
    images, labels = select_random(run.dataset, ipc=15, seed=1)
    assert labels.tolist() == [0] * 15 + [1] * 15 + [2] * 15
    assert len({tuple(pixels) for pixels in images.flatten(1).tolist()}) == 45
    for label in range(3):
        mine = run.dataset.train.images(torch.nonzero(run.dataset.train.labels == label).flatten())
        drawn = images[labels == label]
        assert sorted(drawn.flatten(1).tolist()) == sorted(mine.flatten(1).tolist())


def test_the_seed_decides_the_random_images(run: Run) -> None:
    first, _ = select_random(run.dataset, ipc=3, seed=1)
    assert torch.equal(select_random(run.dataset, ipc=3, seed=1)[0], first)
    assert not torch.equal(select_random(run.dataset, ipc=3, seed=2)[0], first)


def test_a_class_with_too_few_images_is_named(run: Run) -> None:
    with pytest.raises(DirePlugError, match="class 'columns' of stub has 15 training images, 16 per class"):
        select_random(run.dataset, ipc=16, seed=0)


@pytest.fixture
def drawn(run: Run, tmp_path: Path) -> tuple[Path, ImageSet]:
    """The folder of a run of the arm `random`, and its images."""
    random = replace(run, request=replace(run.request, arm="random"), engine="none")
    return tmp_path / "run", recover(random, squeeze(run), Inputs(), {}, folder=tmp_path / "run")


def test_a_random_arm_leaves_files_and_tensors_of_the_same_images(run: Run, drawn: tuple[Path, ImageSet]) -> None:
    folder, found = drawn
    images, labels = read_saved(folder / "images", run.adapter, classes=3, ipc=2)
    tensors, tensor_labels = read_tensors(folder)
    assert torch.equal((tensors * 255).round().to(torch.uint8), images)
    assert torch.equal(tensor_labels, labels)
    assert torch.equal(images, select_random(run.dataset, ipc=2, seed=run.seed)[0])
    assert torch.equal(found.images, images)
    assert not found.synthesized


def test_damaged_tensors_are_refused_by_name(drawn: tuple[Path, ImageSet]) -> None:
    path = drawn[0] / "images.safetensors"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:50])
    with pytest.raises(DirePlugError, match=r"images\.safetensors: cannot be read"):
        read_tensors(drawn[0])
