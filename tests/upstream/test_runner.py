"""The parent of the child process: what it passes on, and how the two end together."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.toy_upstream import make_script

from dire_plug.errors import DirePlugError, PluginError, UpstreamFailedError
from dire_plug.upstream import runner
from dire_plug.upstream.job import ChildJob
from dire_plug.upstream.runner import run_child, visible_device

REPORT = """
import json, os, sys, time
events = os.fdopen(int(sys.argv[2]), "w", buffering=1)
def emit(**event): events.write(json.dumps(event) + "\\n")
"""


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that gives the child other code."""

    def use(code: str) -> None:
        command = lambda job_file: [sys.executable, "-c", REPORT + code, str(job_file)]  # noqa: E731
        monkeypatch.setattr(runner, "child_command", command)

    return use


def start(tmp_path: Path, on_event: Callable[[dict[str, Any]], None] = lambda event: None, **changes: Any) -> None:
    run_child(ChildJob(tmp_path, "script.py", (), tmp_path, **changes), log=tmp_path / "log.txt", on_event=on_event)


def test_every_event_up_to_the_last_arrives_in_order(fake: Callable[[str], None], tmp_path: Path) -> None:
    fake("for number in range(5000): emit(event='step', step=number)\nemit(event='finished')")
    seen: list[int] = []
    start(tmp_path, lambda event: seen.append(event["step"]))
    assert seen == list(range(5000))


def test_a_failure_shows_the_last_fifteen_lines_and_the_log(fake: Callable[[str], None], tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text("of an earlier run\n")
    fake("for number in range(20): print('line', number)\nsys.exit(3)")
    with pytest.raises(UpstreamFailedError) as caught:
        start(tmp_path)
    lines = str(caught.value).splitlines()
    assert lines[0] == "upstream's script.py ended with status 3; its last lines:"
    assert lines[1:-1] == [f"  line {number}" for number in range(5, 20)]
    assert lines[-1] == f"log: {tmp_path / 'log.txt'}"
    assert (tmp_path / "log.txt").read_text().startswith("of an earlier run\nline 0\n")


def test_a_killed_child_is_told_from_a_failed_one(fake: Callable[[str], None], tmp_path: Path) -> None:
    fake("os.kill(os.getpid(), 9)")
    with pytest.raises(UpstreamFailedError, match=r"was ended by SIGKILL \(the machine may be out of memory\)"):
        start(tmp_path)


def test_a_script_that_leaves_early_without_a_word_is_no_success(fake: Callable[[str], None], tmp_path: Path) -> None:
    fake("emit(event='step'); os._exit(0)")
    with pytest.raises(UpstreamFailedError, match="ended the process before its last pass was done"):
        start(tmp_path)


@pytest.mark.parametrize(("kind", "error"), [("plugin", PluginError), ("user", DirePlugError)])
def test_a_reported_error_comes_out_as_itself(
    fake: Callable[[str], None], tmp_path: Path, kind: str, error: type[Exception]
) -> None:
    fake(f"emit(event='error', kind='{kind}', message='what, where, what to do'); sys.exit(71)")
    with pytest.raises(error) as caught:
        start(tmp_path)
    assert type(caught.value) is error
    assert str(caught.value) == "what, where, what to do"


@pytest.mark.parametrize("stubborn", ["", "import signal; signal.signal(15, signal.SIG_IGN)"])
def test_an_interrupted_parent_leaves_no_child_and_no_zombie(
    fake: Callable[[str], None], tmp_path: Path, stubborn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "PATIENCE", 0.2)
    fake(f"{stubborn}\nemit(event='step', pid=os.getpid())\ntime.sleep(60)")
    pids: list[int] = []

    def interrupt(event: dict[str, Any]) -> None:
        pids.append(event["pid"])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start(tmp_path, interrupt)
    assert not Path(f"/proc/{pids[0]}").exists()


def test_what_the_child_left_running_is_ended(fake: Callable[[str], None], tmp_path: Path) -> None:
    fake("import subprocess\nemit(event='step', pid=subprocess.Popen(['sleep', '60']).pid)\nemit(event='finished')")
    pids: list[int] = []
    start(tmp_path, lambda event: pids.append(event["pid"]))
    wait_until(lambda: not is_running(pids[0]))


def test_the_child_gets_a_home_a_folder_and_a_device_of_its_own(
    fake: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TMPDIR", raising=False)
    secrets = {"SECRET_TOKEN", "NVIDIA_API_KEY", "DIRE_PLUG_HUB_PASSWORD"}
    for name in secrets:
        monkeypatch.setenv(name, "x")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    settings = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "PYTORCH_ALLOC_CONF": "x", "TORCH_LOGS": "+dynamo"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    fake("emit(event='step', cwd=os.getcwd(), environment=dict(os.environ)); emit(event='finished')")
    seen: list[dict[str, Any]] = []
    start(tmp_path, seen.append, device="cuda:1", threads=3)
    environment, scratch = seen[0]["environment"], tmp_path / "scratch"
    assert seen[0]["cwd"] == str(scratch / "cwd")
    assert environment["HOME"] == str(scratch / "home")
    assert environment["TMPDIR"] == str(scratch / "tmp")
    assert environment["CUDA_VISIBLE_DEVICES"] == "7"
    assert environment["OMP_NUM_THREADS"] == "3"
    assert environment["WANDB_MODE"] == "disabled"
    assert environment["PYTHONHASHSEED"] == "0"
    assert not secrets & environment.keys()
    assert settings.items() <= environment.items()
    assert ChildJob.read(tmp_path / "job.json").device == "cuda:0"
    assert not scratch.exists()


def test_temporary_files_go_to_the_machines_scratch_and_are_gone(
    fake: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (scratch := tmp_path / "local").mkdir()
    monkeypatch.setenv("DIRE_PLUG_SCRATCH", str(scratch))
    fake("emit(event='step', tmp=os.environ['TMPDIR']); open(os.environ['TMPDIR'] + '/x', 'w').close(); sys.exit(3)")
    seen: list[dict[str, Any]] = []
    with pytest.raises(UpstreamFailedError):
        start(tmp_path, seen.append)
    assert Path(seen[0]["tmp"]).is_relative_to(scratch)
    assert not Path(seen[0]["tmp"]).exists()


def test_a_device_that_is_not_visible_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4")
    assert visible_device("cpu") == ("", "cpu")
    assert visible_device("cuda") == ("4", "cuda:0")
    with pytest.raises(DirePlugError, match="device cuda:1: CUDA_VISIBLE_DEVICES=4 shows 1 device"):
        visible_device("cuda:1")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert visible_device("cuda:1") == ("1", "cuda:0")


def test_a_script_that_uses_several_gpus_sees_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6,7")
    assert visible_device("cuda", gpus=2) == ("4,6", "cuda:0")
    assert visible_device("cuda:1", gpus=2) == ("6,7", "cuda:0")
    assert visible_device("cpu", gpus=2) == ("", "cpu")
    with pytest.raises(DirePlugError, match="--gpus-per-job 3: from cuda:1 on, CUDA_VISIBLE_DEVICES=4,6,7 shows 2"):
        visible_device("cuda:1", gpus=3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert visible_device("cuda:1", gpus=2) == ("1,2", "cuda:0")


def is_running(pid: int) -> bool:
    """Tell whether a process exists and isn't a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(happened: Callable[[], bool]) -> None:
    """Fail if something doesn't happen within a minute."""
    end = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
def test_an_error_of_upstreams_keeps_its_traceback(tmp_path: Path) -> None:
    job = make_script(tmp_path, "def work():\n    raise ValueError('no images')\n\n\nwork()\n")
    with pytest.raises(UpstreamFailedError, match=r"(?s)script\.py ended with status 1.*line 2, in work.*no images"):
        run_child(job, log=tmp_path / "log.txt", on_event=print)


@pytest.mark.slow
def test_the_child_dies_with_a_killed_parent(tmp_path: Path) -> None:
    script = f"import os, time\nopen({str(tmp_path / 'pid')!r}, 'w').write(f'{{os.getpid()}}\\n')\ntime.sleep(300)\n"
    make_script(tmp_path, script).write()
    parent = (
        "from pathlib import Path; from dire_plug.upstream.job import ChildJob; "
        "from dire_plug.upstream.runner import run_child; "
        f"run_child(ChildJob.read(Path({str(tmp_path / 'job.json')!r})), log=Path({str(tmp_path / 'log')!r}), "
        "on_event=print)"
    )
    with subprocess.Popen([sys.executable, "-c", parent]) as process:
        file = tmp_path / "pid"
        wait_until(lambda: file.exists() and file.read_text().endswith("\n"))
        pid = int(file.read_text())
        assert is_running(pid)
        process.send_signal(signal.SIGKILL)
    wait_until(lambda: not is_running(pid))
