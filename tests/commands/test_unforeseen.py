"""What nobody foresaw ends in one line; one broken thing doesn't hide the others in a list."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from click.testing import CliRunner

from dire_plug import home, plugins, ui
from dire_plug.cli import group, main
from dire_plug.commands.upstream import verify
from dire_plug.errors import DirePlugError
from dire_plug.files import write_json
from dire_plug.store.lease import hold

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    """Return a function that runs the command line and returns its exit code, output and errors."""
    monkeypatch.setenv("DIRE_PLUG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "300")  # no message in a table is wrapped

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(list(arguments))
        captured = capsys.readouterr()
        assert isinstance(end.value.code, int)
        return end.value.code, captured.out, captured.err

    return run


def failing(error: Exception) -> Callable[..., NoReturn]:
    def fail(*arguments: object, **named: object) -> NoReturn:
        raise error

    return fail


def test_an_unforeseen_error_is_one_line_that_says_how_to_see_more(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugins, "known", failing(RuntimeError("CUDA error:\n  out of memory")))
    words = "unexpected error (RuntimeError: CUDA error: out of memory); finished stages are kept"
    told = f"error: list: {words}; for the traceback: dire-plug -v list …\n"
    assert call("list", "plugins") == (1, "", told)
    code, _, errors = call("-v", "list", "plugins")
    assert code == 1
    assert errors.startswith("Traceback (most recent call last):\n")
    assert errors.endswith(f"\nerror: list: {words}\n")
    assert call("list", "plugins")[2] == told


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError("it broke"), "error: OSError: it broke; finished stages are kept"),
        (TimeoutError(), "error: TimeoutError: no reason was given; finished stages are kept"),
        (PermissionError(13, "Permission denied", "/x"), "error: /x: Permission denied; finished stages are kept"),
    ],
)
def test_an_error_of_the_system_says_what_it_knows(
    call: Call, monkeypatch: pytest.MonkeyPatch, error: OSError, line: str
) -> None:
    monkeypatch.setattr(plugins, "known", failing(error))
    assert call("list", "plugins") == (2, "", f"{line}\n")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "see ulimit -v"),
        (ImportError("libtorch.so: failed to map segment from shared object"), "libtorch.so: failed to map"),
        (OSError("libtorch.so: failed to map segment from shared object"), "libtorch.so: failed to map"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 7680000000 bytes"), "not enough memory (DefaultCPU"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has …. Process 1 has …"),
            "not enough GPU memory (CUDA out of memory. Tried to allocate 2.00 GiB); lower the batch",
        ),
    ],
)
def test_too_little_memory_is_told_as_such(
    call: Call, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    monkeypatch.setattr(plugins, "known", failing(error))
    code, _, errors = call("list", "plugins")
    assert code == 2
    assert words in errors
    assert "unexpected" not in errors


@pytest.mark.parametrize("seed", ["-1", str(2**31), "9" * 30])
def test_a_seed_that_no_generator_takes_is_refused(call: Call, seed: str) -> None:
    code, _, errors = call("run", "sre2l", "--seed", seed)
    assert code == 2
    assert f"{seed} is not in the range 0<=x<=2147483647." in errors


def test_a_commands_own_v_says_more_and_its_absence_takes_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[bool] = []

    def known(kind: str) -> dict[str, object]:
        told.append(ui.is_verbose())
        return {}

    monkeypatch.setattr("dire_plug.plugins.known", known)
    for line in (["vendor"], ["vendor", "-v"], ["-v", "vendor"]):
        ui.configure(verbose=False)
        group.main(line, standalone_mode=False)
    assert told == [False, True, True]


class Broken:
    """An adapter that has nothing."""


def rows_of(output: str) -> dict[str, str]:
    rows = [re.split(r"\s{2,}", line.strip()) for line in output.splitlines()]
    return {row[0]: " ".join(row[1:]) for row in rows}


@pytest.mark.parametrize("error", [DirePlugError("it is broken [n, 3]"), RuntimeError("it is broken [n, 3]")])
@pytest.mark.parametrize("what", ["methods", "recipes"])
def test_a_broken_package_does_not_hide_the_others(
    call: Call, monkeypatch: pytest.MonkeyPatch, what: str, error: Exception
) -> None:
    genuine, known = plugins.load_adapter, plugins.known

    def load(name: str) -> object:
        if name == "broken":
            raise error
        return Broken() if name == "empty" else genuine(name)

    monkeypatch.setattr(plugins, "load_adapter", load)
    monkeypatch.setattr(plugins, "known", lambda kind: dict.fromkeys(["broken", "empty", *known(kind)]))
    code, output, errors = call("list", what)
    rows = rows_of(output)
    assert (code, errors) == (0, "")
    assert re.match(r"(problem: | problem: RuntimeError\(')?.*it is broken \[n, 3\]", rows["broken"])
    assert "problem: AttributeError(\"'Broken' object has no attribute" in rows["empty"]
    assert rows["sre2l"]


def test_a_recipe_that_cannot_be_read_does_not_hide_the_others(
    call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "bad.yaml").write_text("ipc: [1\nmethod: x\n")
    (tmp_path / "good.yaml").write_text("dataset: {name: digits}\nipc: 3\n")
    adapter = plugins.load_adapter("sre2l")
    monkeypatch.setattr(adapter, "recipes", lambda: tmp_path)
    monkeypatch.setattr(plugins, "load_adapter", lambda name: adapter)
    code, output, _ = call("list", "recipes")
    assert code == 0
    assert f"problem: {tmp_path / 'bad.yaml'}: line 2" in output
    assert rows_of(output)["sre2l/good"].startswith("digits 3 ")


def test_a_damaged_run_does_not_hide_the_others(call: Call) -> None:
    folder = home.runs() / "sre2l" / "quick"
    write_json(folder / "good-0-1" / "status.json", {"state": "finished", "stage": "measure", "updated": "today"})
    metrics = {"arm": "good", "seed": 0, "ipc": 2, "engine": "native", "accuracy": {}}
    write_json(folder / "good-0-1" / "metrics.json", metrics | {"diversity": {"T": {}, "I": {}}})
    write_json(folder / "gone-0-1" / "status.json", {"state": "finished"})
    write_json(folder / "old-0-1" / "status.json", {"state": "failed"})
    for name, content in {"cut": "{", "list": "[]"}.items():
        (folder / name).mkdir()
        (folder / name / "status.json").write_text(content)
    code, output, errors = call("list", "runs")
    rows = rows_of(output)
    assert (code, errors) == (0, "")
    assert rows["sre2l/quick/good-0-1"].startswith("finished 2 native – ")
    assert rows["sre2l/quick/old-0-1"].startswith("failed (?) – – – ")
    assert rows["sre2l/quick/gone-0-1"].startswith("problem: ")
    assert rows["sre2l/quick/cut"].startswith(f"problem: {folder / 'cut' / 'status.json'}: cannot be read as JSON")
    assert rows["sre2l/quick/list"].startswith(f"problem: {folder / 'list' / 'status.json'}: holds no run status")


def test_verify_leaves_a_folder_alone_that_another_verify_works_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIRE_PLUG_HOME", str(tmp_path))
    folder = home.store() / "work" / "verify-sre2l"
    folder.mkdir(parents=True)
    (folder / "evidence").write_text("")
    with hold(folder.with_name(".sre2l.lease"), what="it"):
        result = CliRunner().invoke(verify, ["sre2l"])
    assert isinstance(result.exception, DirePlugError)
    assert f"the folder of verify, {folder}, is held by process " in str(result.exception)
    assert (folder / "evidence").exists()
