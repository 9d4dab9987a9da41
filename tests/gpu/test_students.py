"""Students of every protocol on the pretended GPU: the CPU's values, and no wait for the device in a step."""

import copy
import shutil
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.pretended_gpu import DEVICE, Counts, back, counted, device_present, uncounted
from support.stub_run import (
    CPU,
    image_set,
    make_run,
    random_set,
    with_networks,
    with_section,
)
from torch import Tensor

from dire_plug.models import build, last_linear
from dire_plug.models.checkpoint import Network, load
from dire_plug.stages.evaluate import stores_labels
from dire_plug.stages.images import ImageSet
from dire_plug.stages.squeeze import network_file, squeeze
from dire_plug.stages.student_data import build_student_data
from dire_plug.store.runs import Run
from dire_plug.training import students
from dire_plug.training.loop import initialised
from dire_plug.training.protocols import train_student
from dire_plug.training.soft_labels import relabel
from dire_plug.training.stored_batches import epoch_file

EPOCHS, BATCHES, BATCH = 2, 4, 9
LAUNCHES_OF_LABELLING = 430
"""The most of an epoch of four batches."""
PER_EPOCH = {
    "training/loop.py: _local_scalar_dense": 1,
    "training/students.py: _local_scalar_dense": 1,
}
"""What the host waits for once an epoch: the mean loss, and the accuracy of a test."""


@dataclass(frozen=True)
class Scenario:
    """A protocol with keys of its section.

    Attributes:
        launches: the most of an epoch of four batches and a test.
    """

    protocol: str
    launches: int
    keys: dict[str, Any] = field(default_factory=dict)


SCENARIOS = {
    "on-the-fly": Scenario("on-the-fly", 690, {"padding": 1}),
    "on-the-fly, CutMix and resized crops": Scenario(
        "on-the-fly", 910, {"mixup": 0, "cutmix": 1, "augmentation": "resized_crop_flip"}
    ),
    "hard-labels": Scenario("hard-labels", 400),
    "static-labels": Scenario("static-labels", 660, {"padding": 1}),
    "dynamic-labels": Scenario("dynamic-labels", 730, {"padding": 1}),
    "ensemble-labels": Scenario("ensemble-labels", 1100, {"accumulate": 2}),
    "delt": Scenario("delt", 930),
    "delt, RandAugment": Scenario("delt", 1500, {"randaugment": {"operations": 2}, "min_scale": 1}),
    "sre2l-tiny": Scenario("sre2l-tiny", 740, {"warmup_epochs": 0, "lr": 0.01}),
    "dwa-tiny": Scenario("dwa-tiny", 750, {"warmup_epochs": 0, "lr": 0.01}),
    "fkd": Scenario("fkd", 1050),
    "fkd-ensemble": Scenario("fkd-ensemble", 1020),
    "cv-dd": Scenario("cv-dd", 1050),
}
every_scenario = pytest.mark.parametrize("name", SCENARIOS)


@pytest.fixture
def store(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained, tmp_path / "store")
    return tmp_path / "store"


def run_on(device: str, store: Path, scenario: Scenario) -> Run:
    keys = {"epochs": EPOCHS, "batch_size": BATCH, "test_from": 0, "test_every": 1, **scenario.keys}
    run = with_section(with_networks(make_run(store)), scenario.protocol, **keys)
    return replace(run, request=replace(run.request, device=device))


def condensed(run: Run) -> ImageSet:
    """Return 36 images, floats: the resize of uint8 images rounds otherwise on the CPU."""
    images = random_set(run, ipc=BATCHES * BATCH // 3, seed=1)
    return image_set(images.images.float() / 255, images.labels)


def train_on(run: Run, networks: list[Network], folder: Path) -> tuple[list[Tensor], Counts]:
    """Train a student for two epochs; return its logits and classifier, and what was counted in the second epoch.

    Not all weights: a bias before batch normalisation has no gradient but rounding, which Adam makes a step of. Logits
    by a batch's own statistics don't depend on it.
    """
    section: Any = run.recipe.evaluate
    images = condensed(run)
    data = build_student_data(run, section, networks[0], images)
    if stores_labels(section):
        stored = relabel(run, section, networks, data=data, folder=folder / "labels", name="set")
        data = replace(data, stored=stored)
    student = initialised(lambda: build("convnet-small", outputs=4, stem="small", size=8), 5).to(run.device)
    counts = Counts()

    def note(done: int, **values: float) -> None:
        # from the end of the first epoch to that of the second
        if done == 1:
            counts.launches.subtract(seen.launches)
            counts.waits.subtract(seen.waits)
        else:
            counts.launches.update(seen.launches)
            counts.waits.update(seen.waits)

    with counted() as seen:
        train_student(
            student,
            [network.model for network in networks],
            data=data,
            section=section,
            seed=7,
            folder=folder / "student",
            progress=note,
        )
    with torch.no_grad():
        logits = student.train()(torch.rand(32, 3, 8, 8, generator=torch.Generator().manual_seed(3)).to(run.device))
    return [back(value.detach()).float() for value in (logits, *last_linear(student).parameters())], counts


def labellers(run: Run) -> list[Network]:
    """Return the teachers, on the run's device."""
    own = replace(run, request=replace(run.request, device="cpu"))
    loaded = [load(network_file(own, one), CPU) for one in squeeze(own).in_loop.values()]
    return [replace(one, model=copy.deepcopy(one.model).to(run.device)) for one in loaded]


def by_file(waits: Counter[tuple[str, str]]) -> dict[str, int]:
    """Return how often the host waited, by file of dire_plug and kind."""
    found: Counter[str] = Counter()
    for (kind, place), number in waits.items():
        if number:
            found[f"{place.partition(':')[0]}: {kind}"] += number
    return dict(found)


def train_on_both(scenario: Scenario, store: Path, folder: Path) -> Counts:
    """Assert that a student learns on the device what it learns on the CPU; return what it counted there."""
    on_cpu = run_on("cpu", store, scenario)
    expected, _ = train_on(on_cpu, labellers(on_cpu), folder / "cpu")
    with device_present():
        run = run_on(DEVICE, store, scenario)
        with uncounted():
            networks = labellers(run)
        found, counts = train_on(run, networks, folder / "device")
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    return counts


@every_scenario
def test_a_student_learns_as_on_the_cpu_and_no_step_waits(name: str, store: Path, tmp_path: Path) -> None:
    counts = train_on_both(SCENARIOS[name], store, tmp_path)
    assert by_file(counts.waits) == PER_EPOCH
    assert counts.launches.total() <= SCENARIOS[name].launches


@pytest.mark.parametrize("protocol", ["fkd", "fkd-ensemble"])
def test_labelling_waits_once_an_epoch_and_labels_as_on_the_cpu(protocol: str, store: Path, tmp_path: Path) -> None:
    waits, launches = list[int](), list[int]()
    # the first makes what is kept
    for epochs in (1, 1, 3):
        scenario = Scenario(protocol, 0, {"epochs": epochs})
        on_cpu = run_on("cpu", store, scenario)
        folders = [tmp_path / f"{where}-{len(waits)}" for where in ("cpu", "device")]
        expected = label(on_cpu, labellers(on_cpu), folders[0])
        with device_present():
            run = run_on(DEVICE, store, scenario)
            with uncounted():
                networks = labellers(run)
            with counted() as counts:
                found = label(run, networks, folders[1])
        waits.append(counts.waits.total())
        launches.append(counts.launches.total())
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
    assert waits[2] - waits[1] == 2
    assert launches[2] - launches[1] <= 2 * LAUNCHES_OF_LABELLING


def label(run: Run, networks: list[Network], folder: Path) -> list[Tensor]:
    """Return the logits of each epoch that are stored."""
    section: Any = run.recipe.evaluate
    data = build_student_data(run, section, networks[0], condensed(run))
    relabel(run, section, networks, data=data, folder=folder, name="set")
    return [load_file(epoch_file(folder, epoch))["logits"] for epoch in range(section.epochs)]


@pytest.mark.parametrize("name", ["on-the-fly", "fkd"])
def test_images_that_do_not_fit_come_batch_by_batch_without_a_wait(
    name: str, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the CPU has no such limit
    monkeypatch.setattr(students, "MOST_UNASKED", 0)
    assert by_file(train_on_both(SCENARIOS[name], store, tmp_path).waits) == PER_EPOCH
