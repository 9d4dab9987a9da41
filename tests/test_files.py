"""Files written whole or not at all, locks, caches."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dire_plug.errors import DirePlugError
from dire_plug.files import digest, make_folder, new_folder, write_atomically
from dire_plug.runs.cache import cached
from dire_plug.runs.lock import hold, holder


def test_a_full_disk_keeps_the_old_file_and_leaves_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "metrics.json"
    path.write_text("old")

    def no_space(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(DirePlugError, match="No space left on device"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_below_a_regular_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DirePlugError, match=f"at {tmp_path / 'file'}"):
        make_folder(tmp_path / "file" / "runs")


def test_a_folder_that_was_not_finished_is_absent(tmp_path: Path) -> None:
    def fill_half() -> None:
        with new_folder(tmp_path / "tree") as folder:
            (folder / "half").write_text("")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fill_half()
    assert list(tmp_path.iterdir()) == []


def test_a_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})


def test_a_lock_names_its_live_holder(tmp_path: Path) -> None:
    take = "with hold(Path(sys.argv[1]), what='the run x'): pass"
    code = f"import sys\nfrom pathlib import Path\nfrom dire_plug.runs.lock import hold\n{take}"
    with hold(tmp_path / "lock", what="the run x"):
        other = subprocess.run(
            [sys.executable, "-c", code, tmp_path / "lock"], capture_output=True, text=True, check=False
        )
        assert (holder(tmp_path / "lock") or "").startswith(f"process {os.getpid()} on ")
    assert f"the run x is held by process {os.getpid()}" in other.stderr
    assert holder(tmp_path / "lock") is None
    assert list(tmp_path.iterdir()) == []


def test_a_lock_of_a_killed_process_is_taken_over(tmp_path: Path) -> None:
    code = (
        "import os, signal\nfrom pathlib import Path\nfrom dire_plug.runs.lock import hold\n"
        f"with hold(Path({str(tmp_path)!r})/'lock', what='x'): os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    assert (tmp_path / "lock").exists()
    with hold(tmp_path / "lock", what="x"):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()


def test_a_cache_entry_is_made_once_and_goes_on_from_what_a_failure_left(tmp_path: Path) -> None:
    calls = []

    def make(work: Path) -> None:
        calls.append(sorted(file.name for file in work.iterdir()))
        (work / "epoch-1").write_text("")
        if len(calls) == 1:
            raise DirePlugError("stopped")

    with pytest.raises(DirePlugError, match="stopped"):
        cached(tmp_path, kind="squeeze", key={"a": 1}, make=make)
    entry = cached(tmp_path, kind="squeeze", key={"a": 1}, make=make)
    assert cached(tmp_path, kind="squeeze", key={"a": 1}, make=make) == entry
    assert calls == [["key.json"], ["epoch-1", "key.json"]]
    assert cached(tmp_path, kind="squeeze", key={"a": 2}, make=lambda work: None) != entry
