"""Temporary files on the machine's own disk: which folder it is, and that nothing stays there."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dire_plug.errors import DirePlugError
from dire_plug.store.scratch import scratch_folder, scratch_root

MEMORY = Path("/dev/shm")
PROGRAM = """
import sys
from pathlib import Path
from dire_plug.store.scratch import scratch_folder
with scratch_folder(Path(sys.argv[1]), "theirs") as folder:
    (folder / "file").write_text("")
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _unset(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DIRE_PLUG_SCRATCH", "SLURM_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    found = {name: tmp_path / name for name in ("own", "slurm", "tmp")}
    for folder in found.values():
        folder.mkdir()
    return found


def test_without_a_variable_there_is_no_scratch(tmp_path: Path) -> None:
    assert scratch_root(tmp_path / "store") is None


def test_the_own_variable_comes_first_and_then_slurms(
    tmp_path: Path, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dire_plug.store.scratch.IN_MEMORY", ())
    monkeypatch.setenv("SLURM_TMPDIR", str(folders["slurm"]))
    assert scratch_root(tmp_path / "store") == folders["slurm"]
    monkeypatch.setenv("DIRE_PLUG_SCRATCH", str(folders["own"]))
    assert scratch_root(tmp_path / "store") == folders["own"]


def test_slurms_folder_that_is_not_there_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_TMPDIR", str(tmp_path / "gone"))
    assert scratch_root(tmp_path / "store") is None


def test_tmpdir_on_the_disk_of_the_store_is_no_gain(
    tmp_path: Path, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(folders["tmp"]))
    assert scratch_root(tmp_path / "store") is None


def is_memory(path: Path) -> bool:
    return path.is_dir() and subprocess.run(
        ["stat", "-f", "-c", "%T", path], capture_output=True, text=True, check=False
    ).stdout.startswith("tmpfs")


@pytest.mark.skipif(not is_memory(MEMORY), reason="no file system in memory at /dev/shm")
@pytest.mark.parametrize("name", ["SLURM_TMPDIR", "TMPDIR"])
def test_a_folder_in_memory_is_taken_only_if_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, str(MEMORY))
    assert scratch_root(tmp_path / "store") is None
    monkeypatch.setenv("DIRE_PLUG_SCRATCH", str(MEMORY))
    assert scratch_root(tmp_path / "store") == MEMORY


@pytest.mark.skipif(not is_memory(MEMORY), reason="no second file system at /dev/shm")
def test_tmpdir_on_another_disk_than_the_store_is_taken(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dire_plug.store.scratch.IN_MEMORY", ())
    monkeypatch.setenv("TMPDIR", str(folders["tmp"]))
    assert scratch_root(MEMORY / "a store that is still to be made") == folders["tmp"]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIRE_PLUG_SCRATCH", str(tmp_path / "gone"))
    with pytest.raises(DirePlugError, match=r"DIRE_PLUG_SCRATCH: .*gone is no folder that can be written"):
        scratch_root(tmp_path)


def left(root: Path) -> list[str]:
    """Return the names of all files and of the folders of processes that lie below a scratch."""
    return sorted(path.name for path in root.glob("dire-plug-*/*/*"))


def test_a_folder_is_of_this_process_and_gone_in_the_end(tmp_path: Path) -> None:
    with scratch_folder(tmp_path, "labels") as one, scratch_folder(tmp_path, "labels") as other:
        (one / "inner").mkdir()
        assert one != other
        assert one.name.startswith(f"labels-{os.getpid()}-")
        assert other.is_dir()
        assert one.parents[1].stat().st_mode & 0o777 == 0o700
    assert left(tmp_path) == []


def test_a_folder_is_gone_after_an_error_too(tmp_path: Path) -> None:
    def fail() -> None:
        with scratch_folder(tmp_path, "labels") as folder:
            (folder / "file").write_text("")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert left(tmp_path) == []


@pytest.fixture
def other_process(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Another process and its folder."""
    options: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", PROGRAM, str(tmp_path)], **options) as process:
        yield process, Path(process.stdout.readline().strip())  # type: ignore[union-attr]
        process.kill()


def test_the_folder_of_a_live_process_stays(tmp_path: Path, other_process: tuple[subprocess.Popen[str], Path]) -> None:
    process, theirs = other_process
    with scratch_folder(tmp_path, "mine"):
        assert (theirs / "file").is_file()
    process.communicate("")
    assert process.returncode == 0
    assert left(tmp_path) == []


def test_what_a_killed_process_left_is_removed_by_the_next(
    tmp_path: Path, other_process: tuple[subprocess.Popen[str], Path]
) -> None:
    process, theirs = other_process
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert left(tmp_path) == [theirs.name, f"{theirs.name}.lock"]
    with scratch_folder(tmp_path, "mine") as mine:
        assert left(tmp_path) == [mine.name, f"{mine.name}.lock"]


def test_the_folders_of_another_machine_stay(tmp_path: Path) -> None:
    with scratch_folder(tmp_path, "mine") as mine:
        other = mine.parents[1] / f"not-{socket.gethostname()}"
        (other / "labels-1-ab").mkdir(parents=True)
        (other / "labels-1-ab.lock").touch()
    with scratch_folder(tmp_path, "mine"):
        assert len(list(other.iterdir())) == 2


def test_a_folder_of_somebody_else_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"dire-plug-{os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with (
        pytest.raises(DirePlugError, match="belongs to another user; set DIRE_PLUG_SCRATCH"),
        scratch_folder(tmp_path, "mine"),
    ):
        pass
