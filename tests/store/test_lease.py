"""Leases: who holds one, when it is taken over, and what becomes of the work of a holder that comes back."""

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.small_run import native, only_run, outcome, start_process, wait_until

from dire_plug.errors import DirePlugError, LeaseLostError, RunBusyError
from dire_plug.pipeline import run_arm
from dire_plug.store import lease as leases
from dire_plug.store.artefacts import Store, put
from dire_plug.store.lease import EXPIRES, Holder, Lease, hold, holder, until_kept
from dire_plug.types.artefact import Artefact

HOLD = """
import sys
from pathlib import Path
from dire_plug.store.lease import hold
with hold(Path(sys.argv[1]), wait=float(sys.argv[2]), what="the entry"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a lease."""
    return tmp_path / "it.lease"


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Return a function that starts a process, which is killed at the end of the test."""
    processes = []

    def begin(*command: object) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        process = subprocess.Popen([*map(str, command)], stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True)
        processes.append(process)
        return process

    yield begin
    for process in processes:
        process.send_signal(signal.SIGCONT)
        process.kill()
        process.communicate()


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def write(path: Path, holder: Holder) -> None:
    path.write_text(json.dumps(asdict(holder)))


def process_holder(pid: int) -> Holder:
    return replace(Holder.here(), pid=pid, started=leases.started_at(pid))


def dead_holder() -> Holder:
    """Return a process of this host that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return replace(Holder.here(), pid=process.pid)


def expire(path: Path) -> None:
    """Make a lease look as if it hadn't been renewed for longer than it lasts."""
    then = path.stat().st_mtime - EXPIRES - 1
    os.utime(path, (then, then))


def pid_in(path: Path) -> int:
    return int(json.loads(path.read_text())["pid"])


def is_held_by(path: Path, pids: set[int]) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return pid_in(path) in pids
    return False


# Who holds it.


def test_a_lease_names_its_live_holder(path: Path, start: Any) -> None:
    with hold(path, what="the entry"):
        output, _ = start(sys.executable, "-c", HOLD, path, 0).communicate()
        assert (holder(path) or "").startswith(f"process {os.getpid()} on ")
    assert f"the entry is held by process {os.getpid()}" in output
    assert holder(path) is None
    assert list(path.parent.iterdir()) == []


def test_a_lease_that_was_removed_and_taken_by_another_stays(path: Path) -> None:
    with hold(path, what="x"):
        path.unlink()
        write(path, process_holder(os.getppid()))
    assert list(path.parent.iterdir()) == [path]


def test_two_threads_of_one_process_exclude_each_other(path: Path) -> None:
    inside, most = 0, 0

    def work(number: int) -> None:
        nonlocal inside, most
        with hold(path, wait=60, what="x"):
            inside += 1
            most = max(most, inside)
            time.sleep(0.02)
            inside -= 1

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert most == 1
    assert list(path.parent.iterdir()) == []


def test_who_waits_says_once_for_whom(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(leases, "SAY_AFTER", 0.1)
    with hold(path, what="the entry"):
        for wait in (0.9, 0):
            with pytest.raises(RunBusyError), hold(path, wait=wait, what="the entry"):
                pass
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith(f"waiting: the entry is held by process {os.getpid()} on ")


def test_a_process_killed_while_it_waits_leaves_no_file(path: Path, start: Any) -> None:
    with hold(path, what="x"):
        waiting = start(sys.executable, "-c", HOLD, path, 60)
        assert read_line(waiting).startswith("waiting: ")
        waiting.kill()
        waiting.wait()
        assert list(path.parent.iterdir()) == [path]


def test_a_file_system_without_hard_links_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*given: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(DirePlugError) as caught, hold(path, what="x"):
        pass
    reason = "its file system has no hard links; use a folder on another one"
    assert str(caught.value) == f"{path}: the lease cannot be written: {reason}"
    assert list(path.parent.iterdir()) == []


# Processes that are known to have ended.


def test_a_lease_of_a_killed_process_is_taken_over_at_once(path: Path, start: Any) -> None:
    process = start(sys.executable, "-c", HOLD, path, 0)
    assert read_line(process) == "held\n"
    process.kill()
    process.wait()
    assert list(path.parent.iterdir()) == [path]
    with hold(path, what="x"):
        assert pid_in(path) == os.getpid()
    assert list(path.parent.iterdir()) == []


def test_a_lease_of_a_process_that_ended_and_was_not_fetched_is_taken_over(path: Path) -> None:
    code = HOLD.replace("sys.stdin.read()", "import os; os._exit(0)")
    with subprocess.Popen([sys.executable, "-c", code, path, "0"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.read() == "held\n"  # up to the end of its output, which is that of the process
        with hold(path, wait=10, what="x"):
            assert pid_in(path) == os.getpid()


def test_a_pid_that_a_later_process_has_is_not_the_holder(path: Path) -> None:
    write(path, replace(process_holder(os.getppid()), started="1"))
    with hold(path, what="x"):
        assert pid_in(path) == os.getpid()


def test_a_lease_that_another_took_over_in_the_meantime_stays_its_own(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(path, dead_holder())
    judge, judged = Holder.is_dead, []

    def judge_slowly(self: Holder) -> bool:
        dead = judge(self)
        judged.append(dead)
        if len(judged) == 1:  # while we look at what we read, another process takes the dead one's lease over
            path.unlink()
            write(path, process_holder(os.getppid()))
        return dead

    monkeypatch.setattr(Holder, "is_dead", judge_slowly)
    with pytest.raises(RunBusyError, match=f"held by process {os.getppid()} on "), hold(path, what="x"):
        pass
    assert judged[0] is True
    assert pid_in(path) == os.getppid()
    assert list(path.parent.iterdir()) == [path]


def test_a_process_that_died_while_it_took_a_lease_over_stops_nobody(path: Path) -> None:
    for name in (path.name, f"{path.name}.break"):
        write(path.with_name(name), dead_holder())
    with hold(path, what="x"):
        assert pid_in(path) == os.getpid()
    assert list(path.parent.iterdir()) == []


# Processes of which only the lease's age tells.

ELSEWHERE: dict[str, Callable[[Holder], Holder]] = {
    "another host": lambda one: replace(one, host="another"),
    "another boot": lambda one: replace(one, boot="another"),
    "another namespace": lambda one: replace(one, namespace="pid:[1]"),
}


@pytest.mark.parametrize("where", list(ELSEWHERE))
def test_elsewhere_a_lease_is_taken_over_when_it_expired_and_not_before(path: Path, where: str) -> None:
    # here no process has this pid
    write(path, ELSEWHERE[where](dead_holder()))
    with pytest.raises(RunBusyError), hold(path, wait=0.3, what="x"):
        pass
    assert holder(path) is not None
    expire(path)
    assert holder(path) is None
    with hold(path, what="x"):
        assert pid_in(path) == os.getpid()
    assert list(path.parent.iterdir()) == []


def naming(**changed: object) -> str:
    return json.dumps({**asdict(Holder.here()), "started": None, **changed})


UNNAMED = ["", "{", "[]", '{"pid": "x", "host": "y"}', '{"host": "y"}', "\x00"]
UNNAMED += [
    naming(pid=-1),
    naming(pid=0),
    naming(pid=True),
    naming(started=1),
    naming(host="a\0b"),
    naming(use="\x1b[2J"),
]


@pytest.mark.parametrize("content", UNNAMED)
def test_a_lease_that_names_nobody_is_taken_over_when_it_expired(path: Path, content: str) -> None:
    path.write_text(content)
    words = "the run x is held by a process that its lease doesn't name; wait "
    for wait in (0, 0.3):
        with pytest.raises(RunBusyError, match=words), hold(path, wait=wait, what="the run x"):
            pass
    assert path.read_text() == content
    expire(path)
    with hold(path, what="x"):
        assert pid_in(path) == os.getpid()


def test_a_lease_of_the_future_is_taken_over_when_it_stays_unchanged(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(path, replace(Holder.here(), host="another"))
    future = path.stat().st_mtime + 86_400
    monkeypatch.setattr(leases, "EXPIRES", 0.4)
    for moment in (future, future + 1):  # the second time it was renewed in between
        os.utime(path, (moment, moment))
        with pytest.raises(RunBusyError), hold(path, wait=0.2, what="x"):
            pass
        time.sleep(0.3)
    with hold(path, wait=60, what="x"):
        assert pid_in(path) == os.getpid()
    assert list(path.parent.iterdir()) == []


def test_a_holder_in_another_pid_namespace_is_judged_by_age_alone(path: Path, start: Any) -> None:
    unshare = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child")
    if shutil.which("unshare") is None or subprocess.run([*unshare, "true"], check=False).returncode != 0:
        pytest.skip("unshare can't make a PID namespace here")
    process = start(*unshare, sys.executable, "-c", HOLD, path, 0)
    assert read_line(process) == "held\n"
    # seen from here this is the number of another process
    assert pid_in(path) < 100
    with pytest.raises(RunBusyError), hold(path, wait=0.3, what="x"):
        pass
    process.kill()
    process.wait()
    with pytest.raises(RunBusyError), hold(path, wait=0.3, what="x"):
        pass
    expire(path)
    with hold(path, what="x"):
        # nor does the other side judge us
        inside = start(*unshare, sys.executable, "-c", HOLD, path, 0.3)
        assert f"held by process {os.getpid()} on " in inside.communicate()[0]


def test_of_many_that_wait_for_an_expired_lease_one_has_it_at_a_time(path: Path, start: Any) -> None:
    write(path, replace(Holder.here(), host="another"))
    expire(path)
    waiting = [start(sys.executable, "-c", HOLD, path, 60) for _ in range(3)]
    wait_until(partial(is_held_by, path, {one.pid for one in waiting}))
    order = []
    while left := [one for one in waiting if one not in order]:
        (first,) = [one for one in left if one.pid == pid_in(path)]
        assert read_line(first).startswith(("held", "waiting"))
        order.append(first)
        first.communicate()
        if len(left) > 1:
            wait_until(partial(is_held_by, path, {one.pid for one in left} - {first.pid}))
    assert [one.returncode for one in waiting] == [0, 0, 0]
    assert list(path.parent.iterdir()) == []


# Renewal and loss.


def test_a_lease_is_renewed_for_as_long_as_it_is_held(path: Path) -> None:
    with hold(path, what="x", renew=0.05):
        for _ in range(2):
            expire(path)
            wait_until(lambda: holder(path) is not None)
        with pytest.raises(RunBusyError), hold(path, what="x"):
            pass


def test_a_holder_that_lost_its_lease_notices_when_it_renews_it(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = process_holder(os.getppid())
    said = ""

    def has_said() -> bool:
        nonlocal said
        said += capsys.readouterr().err
        return said.endswith("is discarded\n")

    with hold(path, what="the entry", renew=0.05) as lease:
        lease.require()
        path.unlink()
        write(path, other)
        renewed = path.stat().st_mtime_ns
        wait_until(has_said)
        assert lease.is_lost()
        with pytest.raises(LeaseLostError) as caught:
            lease.require()
    assert said == f"warning: {caught.value}\n"
    assert f"it was taken over by {other}; what was made here since is discarded" in said
    # neither renewed nor removed: it is the other's
    assert path.stat().st_mtime_ns == renewed


def test_an_error_after_the_loss_is_the_loss(path: Path) -> None:
    def work() -> None:
        with hold(path, what="x"):
            path.unlink()
            path.unlink()

    with pytest.raises(LeaseLostError) as caught:
        work()
    assert isinstance(caught.value.__cause__, FileNotFoundError)


def test_work_that_lost_its_lease_starts_again(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found: list[Lease] = []

    @until_kept
    def work() -> int:
        with hold(path, what="x") as lease:
            found.append(lease)
            if len(found) < 3:
                path.unlink()
            lease.require()
            return len(found)

    assert work() == 3
    assert capsys.readouterr().err.splitlines()[1:] == ["starting again with what the store has"] * 2


# Two that make the same.

NETWORK = Artefact("network", {"seed": 0})

MAKE = """
import sys
from pathlib import Path
from dire_plug.errors import LeaseLostError
from dire_plug.store.artefacts import Store
from dire_plug.types.artefact import Artefact

def make(work):
    (work / "file").write_text("half")
    print("half", flush=True)
    sys.stdin.readline()
    if sys.argv[2] == "makes its folder":
        work.mkdir(exist_ok=True)
    (work / "file").write_text("came back")

try:
    Store(Path(sys.argv[1])).ensure(Artefact("network", {"seed": 0}), make)
except LeaseLostError as error:
    print("lost")
"""


@pytest.mark.parametrize("then", ["makes its folder", "finds no folder"])
@pytest.mark.parametrize("back", ["while the other works", "afterwards"])
def test_a_suspended_holder_comes_back_and_discards(tmp_path: Path, start: Any, then: str, back: str) -> None:
    process = start(sys.executable, "-c", MAKE, tmp_path, then)
    assert read_line(process) == "half\n"
    process.send_signal(signal.SIGSTOP)
    (lease,) = (tmp_path / "leases").iterdir()
    expire(lease)
    seen = []

    def resume() -> None:
        process.send_signal(signal.SIGCONT)
        output, _ = process.communicate("\n")
        assert output.endswith("lost\n")

    def make(work: Path) -> None:
        seen.append((work / "file").read_text())
        (work / "file").write_text("whole")
        if back == "while the other works":
            resume()
        seen.append((work / "file").read_text())

    entry = Store(tmp_path).ensure(NETWORK, make)
    published = entry.stat().st_ino
    if back == "afterwards":
        resume()
    assert seen == ["half", "whole"]
    assert (entry / "file").read_text() == "whole"
    assert entry.stat().st_ino == published
    assert Store(tmp_path).find(NETWORK) == entry
    assert list((tmp_path / "work").iterdir()) == list((tmp_path / "leases").iterdir()) == []


@pytest.mark.parametrize("before", ["absent", "damaged"])
def test_of_two_that_publish_one_entry_the_first_stays(tmp_path: Path, before: str) -> None:
    entry = tmp_path / NETWORK.name
    if before == "damaged":
        Store(tmp_path).ensure(NETWORK, lambda work: None)
        (entry / "more").write_text("")

    def make(work: Path) -> None:
        (work / "file").write_text("second")
        other = Store(tmp_path / "other").ensure(NETWORK, lambda work: None)
        other.chmod(0o755)
        assert put(other, entry, instead_of=entry.stat().st_ino if before == "damaged" else None)

    assert Store(tmp_path).ensure(NETWORK, make) == entry
    assert [one.name for one in entry.iterdir()] == ["entry.json"]
    assert list((tmp_path / "work").iterdir()) == []


def test_a_suspended_run_comes_back_and_shows_what_another_made(bare_home: Path, recipe: Path, baseline: Path) -> None:
    with start_process("run", "sre2l", "--recipe", recipe, "--engine", "native") as process:
        try:
            wait_until(lambda: any((bare_home / "store" / "work").glob("network-*/made_from.json")))
            process.send_signal(signal.SIGSTOP)
            held = list(bare_home.rglob("*.lease"))
            assert any(one.parent.parent.parent.name == "runs" for one in held)
            for one in held:
                expire(one)
            run_arm(native(recipe))
            published = {one: one.stat().st_ino for one in (bare_home / "store").glob("*/*/entry.json")}
            process.send_signal(signal.SIGCONT)
            output, _ = process.communicate()
        finally:
            process.kill()
    assert process.returncode == 0, output
    assert "starting again with what the store has" in output
    assert outcome(only_run(bare_home)) == outcome(baseline)
    assert {one: one.stat().st_ino for one in (bare_home / "store").glob("*/*/entry.json")} == published
    assert list(bare_home.rglob("*.lease*")) == list((bare_home / "store" / "work").iterdir()) == []


def test_two_commands_that_overlap_share_the_work(home: Path, recipe: Path) -> None:
    line = ("compare", "sre2l", "--recipe", recipe, "--arms", "baseline,random", "--engine", "native")
    processes = [start_process(*line) for _ in range(2)]
    outputs = [one.communicate()[0] for one in processes]
    assert [one.returncode for one in processes] == [0, 0], outputs
    assert len(list((home / "runs").glob("*/*/*/metrics.json"))) == 2
    assert list(home.rglob("*.lease*")) == list((home / "store" / "work").iterdir()) == []
