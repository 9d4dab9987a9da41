"""Files written whole or not at all, and locks."""

import errno
import json
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dire_plug.errors import DirePlugError, RunBusyError
from dire_plug.files import digest, make_folder, new_folder, write_atomically
from dire_plug.store import lock as locks
from dire_plug.store.lock import hold, holder


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


def test_a_file_is_replaced_and_never_written_into(tmp_path: Path) -> None:
    path, opened_before = tmp_path / "metrics.json", tmp_path / "the same file"
    path.write_text("old")
    os.link(path, opened_before)
    write_atomically(path, "new")
    assert (path.read_text(), opened_before.read_text()) == ("new", "old")
    assert path.stat().st_mode & 0o777 == 0o644


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
    code = f"import sys\nfrom pathlib import Path\nfrom dire_plug.store.lock import hold\n{take}"
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
        "import os, signal\nfrom pathlib import Path\nfrom dire_plug.store.lock import hold\n"
        f"with hold(Path({str(tmp_path)!r})/'lock', what='x'): os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    assert (tmp_path / "lock").exists()
    with hold(tmp_path / "lock", what="x"):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


def write_lock(path: Path, pid: int) -> None:
    path.write_text(json.dumps({"host": socket.gethostname(), "pid": pid, "started": locks.started_at(pid)}))


def dead_process() -> int:
    """Return the number of a process that is gone."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def test_a_lock_of_a_process_that_ended_and_was_not_fetched_is_taken_over(tmp_path: Path) -> None:
    code = (
        "import os\nfrom pathlib import Path\nfrom dire_plug.store.lock import hold\n"
        f"with hold(Path({str(tmp_path)!r})/'lock', what='x'):\n    print('held', flush=True); os._exit(0)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.read() == "held\n"  # up to the end of its output, which is that of the process
        with hold(tmp_path / "lock", wait=10, what="x"):
            assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()


def test_a_lock_that_another_took_over_in_the_meantime_stays_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lock"
    write_lock(path, dead_process())
    judge, judged = locks.Holder.is_dead, []

    def judge_slowly(self: locks.Holder) -> bool:
        dead = judge(self)
        judged.append(dead)
        if len(judged) == 1:  # while we look at what we read, another process takes the dead one's lock over
            path.unlink()
            write_lock(path, os.getppid())
        return dead

    monkeypatch.setattr(locks.Holder, "is_dead", judge_slowly)
    with pytest.raises(RunBusyError, match=f"held by process {os.getppid()} on "), hold(path, what="x"):
        pass
    assert judged[0] is True
    assert json.loads(path.read_text())["pid"] == os.getppid()
    assert list(tmp_path.iterdir()) == [path]


def test_a_process_that_died_while_it_took_a_lock_over_stops_nobody(tmp_path: Path) -> None:
    for name in ("lock", "lock.break"):
        write_lock(tmp_path / name, dead_process())
    with hold(tmp_path / "lock", what="x"):
        assert json.loads((tmp_path / "lock").read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": "x", "host": "y"}', '{"host": "y"}'])
def test_a_lock_that_does_not_say_who_holds_it_ends_the_waiting_too(tmp_path: Path, content: str) -> None:
    path = tmp_path / "lock"
    path.write_text(content)
    for wait in (0, 0.2):
        with pytest.raises(RunBusyError) as caught, hold(path, wait=wait, what="the run x"):
            pass
        message = f"the run x: its lock is unreadable; if no other process works on it, remove {path}"
        assert str(caught.value) == message
    assert holder(path) is None
    assert path.read_text() == content


def test_two_threads_of_one_process_exclude_each_other(tmp_path: Path) -> None:
    inside, most = 0, 0

    def work(number: int) -> None:
        nonlocal inside, most
        with hold(tmp_path / "lock", wait=60, what="x"):
            inside += 1
            most = max(most, inside)
            time.sleep(0.02)
            inside -= 1

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert most == 1
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_was_removed_and_taken_by_another_is_not_released(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with hold(path, what="x"):
        path.unlink()
        write_lock(path, os.getppid())
    assert list(tmp_path.iterdir()) == [path]


def test_who_waits_says_once_for_whom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(locks, "SAY_AFTER", 0.1)
    with hold(tmp_path / "lock", what="the entry"):
        with pytest.raises(RunBusyError), hold(tmp_path / "lock", wait=0.5, what="the entry"):
            pass
        with pytest.raises(RunBusyError), hold(tmp_path / "lock", wait=0, what="the entry"):
            pass
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"waiting: the entry is held by process {os.getpid()} on ")
