"""What every protocol must do, on 60 tiny images: a new one is tested by having a section in a recipe."""

import copy
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from support.paths import ROOT
from support.stub_run import (
    change,
    killing,
    make_run,
    random_set,
    section_of,
    with_networks,
    with_section,
    with_seed,
    with_store,
)
from torch import Tensor, nn

from dire_plug.recipe.evaluate import PROTOCOLS, check_protocol
from dire_plug.stages import evaluate as stage
from dire_plug.stages.artefacts import Networks
from dire_plug.stages.images import ImageSet
from dire_plug.stages.squeeze import squeeze
from dire_plug.store.runs import Run
from dire_plug.training import loop, students
from dire_plug.training.protocols import SET_UP, train_student

every_protocol = pytest.mark.parametrize("protocol", PROTOCOLS)
Weights = dict[str, Tensor]

FAST: dict[str, dict[str, Any]] = {
    "sre2l-tiny": {"warmup_epochs": 1, "lr": 0.01},
    "dwa-tiny": {"warmup_epochs": 1, "lr": 0.01},
    "delt": {"statistics": "teacher"},
    "on-the-fly": {"padding": 1},
    "static-labels": {"padding": 1},
    "dynamic-labels": {"padding": 1},
}
"""What the tiny images need to be learned in a few epochs."""


@pytest.fixture
def run(trained: Path, tmp_path: Path, protocol: str) -> Run:
    """A run whose recipe names the protocol, with the networks of two teachers."""
    shutil.copytree(trained, tmp_path / "store")
    return with_epochs(with_networks(make_run(tmp_path / "store")), protocol, 3)


@pytest.fixture
def networks(run: Run) -> Networks:
    return squeeze(run)


@pytest.fixture
def condensed(run: Run) -> ImageSet:
    return random_set(run, ipc=3, seed=1)


def with_epochs(run: Run, protocol: str, epochs: int) -> Run:
    keys = {"epochs": epochs, "batch_size": 9, "test_from": 0, "test_every": 1}
    return with_section(run, protocol, **keys, **FAST.get(protocol, {}))


@pytest.fixture
def finished(monkeypatch: pytest.MonkeyPatch) -> list[Weights]:
    """A list that gets the weights of each student whose training ends, and sees that the teachers stay as they are."""
    found = list[Weights]()

    def note(student: nn.Module, teachers: list[nn.Module], **rest: Any) -> Any:
        before = copy.deepcopy([teacher.state_dict() for teacher in teachers])
        result = train_student(student, teachers, **rest)
        assert all(map(same, before, (teacher.state_dict() for teacher in teachers)))
        found.append(copy.deepcopy(student.state_dict()))
        return result

    monkeypatch.setattr(stage, "train_student", note)
    return found


def same(one: Weights, other: Weights) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_there_are_as_many_ways_to_train_as_sections() -> None:
    assert set(SET_UP) == set(PROTOCOLS)
    assert len(set(PROTOCOLS)) == len(PROTOCOLS)


@every_protocol
def test_a_section_has_defaults_and_knows_no_other_key(protocol: str) -> None:
    check_protocol(protocol)
    section = section_of(protocol)
    assert section.protocol == protocol
    assert section_of(**section.model_dump(mode="json")) == section
    with pytest.raises(ValidationError, match="no_such_key"):
        section_of(protocol, no_such_key=1)
    with pytest.raises(ValidationError, match="epochs"):
        section_of(protocol, epochs=0)


@every_protocol
def test_a_protocol_is_described(protocol: str) -> None:
    assert type(section_of(protocol)).__doc__
    assert SET_UP[protocol].__doc__
    assert re.search(rf"^\| `{protocol}` \| ", (ROOT / "docs" / "reference" / "protocols.md").read_text(), re.MULTILINE)


@every_protocol
def test_a_student_trains_for_one_epoch_and_teachers_stay_as_they_are(
    run: Run, networks: Networks, condensed: ImageSet, protocol: str, finished: list[Weights]
) -> None:
    keys = {"warmup_epochs": 0} if "warmup_epochs" in type(run.recipe.evaluate).model_fields else {}
    once = change(run, evaluate=run.recipe.evaluate.model_copy(update={"epochs": 1, **keys}))
    result = stage.evaluate(once, networks, condensed)
    (last,) = result["students"]["convnet-small"]["last"]
    assert result["protocol"] == protocol
    assert 0 <= last <= 100
    assert all(value.isfinite().all() for value in finished[0].values())


@every_protocol
def test_a_student_learns_more_than_chance(run: Run, networks: Networks, condensed: ImageSet, protocol: str) -> None:
    result = stage.evaluate(with_epochs(run, protocol, 30), networks, condensed)
    assert result["students"]["convnet-small"]["best"][0] > 45


@every_protocol
def test_a_seed_decides_a_students_weights(
    run: Run, networks: Networks, condensed: ImageSet, tmp_path: Path, finished: list[Weights]
) -> None:
    shutil.copytree(run.store.root, tmp_path / "again")
    stage.evaluate(run, networks, condensed)
    stage.evaluate(with_store(run, tmp_path / "again"), networks, condensed)
    stage.evaluate(with_seed(run, run.seed + 1), networks, condensed)
    first, again, other = finished
    assert same(first, again)
    assert not same(first, other)


@every_protocol
def test_a_killed_student_goes_on_to_the_same_bits(
    run: Run,
    networks: Networks,
    condensed: ImageSet,
    tmp_path: Path,
    finished: list[Weights],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shutil.copytree(run.store.root, tmp_path / "undisturbed")
    with monkeypatch.context() as patch:
        patch.setattr(loop, "SAVE_SECONDS", 0.0)
        patch.setattr(students, "train", killing(2))
        with pytest.raises(KeyboardInterrupt):
            stage.evaluate(run, networks, condensed)
    assert list(run.store.root.glob(f"work/student-*/training/{loop.CHECKPOINT}"))
    resumed = stage.evaluate(run, networks, condensed)
    assert resumed == stage.evaluate(with_store(run, tmp_path / "undisturbed"), networks, condensed)
    assert same(*finished)
