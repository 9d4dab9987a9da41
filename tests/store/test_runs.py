"""A run's folder: what its status says, and what is true while nobody works on it."""

from pathlib import Path

import pytest

from dire_plug.errors import DirePlugError
from dire_plug.store.lease import hold
from dire_plug.store.runs import RunFolder


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    found = RunFolder(tmp_path / "baseline-0-12345678")
    found.make()
    return found


def test_a_run_that_says_running_and_is_held_by_nobody_is_interrupted(folder: RunFolder) -> None:
    assert folder.state() == "new"
    with hold(folder.lease, what="the run"):
        folder.set_status("running", stage="recover")
        assert folder.state() == "running"
    assert folder.state() == "interrupted"
    assert folder.status()["stage"] == "recover"


@pytest.mark.parametrize("state", ["finished", "failed", "interrupted"])
def test_how_a_run_ended_needs_no_holder(folder: RunFolder, state: str) -> None:
    folder.set_status(state, stage="measure")
    assert folder.state() == state


def test_the_size_of_a_finished_run_is_not_counted_again(folder: RunFolder) -> None:
    (folder.path / "images").mkdir()
    (folder.path / "images" / "0.png").write_bytes(bytes(1000))
    assert folder.size() == 1000
    folder.set_status("finished", stage="measure")
    (folder.path / "report.html").write_bytes(bytes(50))
    assert folder.size() == 1000


def test_a_status_that_is_none_is_refused_by_its_file(folder: RunFolder) -> None:
    (folder.path / "status.json").write_text("[]")
    with pytest.raises(DirePlugError, match=r"status\.json: holds no run status"):
        folder.state()
