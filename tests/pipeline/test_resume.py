"""Killed in the middle: the same command goes on, and ends with the bits of a run that nobody disturbed."""

import json
import math
import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.cli import Cli
from support.small_run import PROGRAM, only_run, outcome, read_rows, start_process, wait_until, when_made, write_recipe
from support.third_party_plugin import ThirdParty
from support.upstreams import vendor_or_skip

from dire_plug.methods.sre2l import SRe2L
from dire_plug.store.runs import RunFolder
from dire_plug.training import loop as training

pytestmark = pytest.mark.slow
IMPATIENT = f"import dire_plug.training.loop as training; training.SAVE_SECONDS = 0; {PROGRAM}"
"""The command line with a checkpoint after each epoch, so that a short training can be caught after one."""
LONG: dict[str, Any] = {
    "ipc": 4,
    "squeeze": {"teacher": {"epochs": 6}},
    "recover": {"flags": {"iteration": 40}},
    "evaluate": {"epochs": 10},
    "arms": {"dire": {"overrides": {"recover": {"plan": {"per_class": 1}, "bank": True}}}},
}
"""The tiny recipe with stages that last long enough to be hit; the bank carries state from pass to pass."""
REACHED = {
    "squeeze": lambda home: any(home.glob(f"store/work/network-*/training/{training.CHECKPOINT}")),
    "recover": lambda home: any(home.glob("store/pass/*/entry.json")),
    "evaluate": lambda home: any(home.glob(f"store/work/student-*/training/{training.CHECKPOINT}")),
}
"""Stage → whether something of it is finished, and not yet all."""


@pytest.fixture(scope="module")
def long_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("recipes") / "long.yaml", LONG)


@dataclass(frozen=True)
class Whole:
    """An undisturbed run: what it gave, by a line of the command line."""

    home: Path
    given: dict[str, Any]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, long_recipe: Path) -> Whole:
    """The undisturbed run of the arm `dire`, in a process of its own."""
    home = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIRE_PLUG_HOME", str(home))
        finish("run", "sre2l", "--recipe", long_recipe, "--engine", "native", "--dire")
    return Whole(home, outcome(only_run(home)))


def finish(*line: object) -> str:
    """Run the command line in a process of its own; it must end well."""
    process = start_process(*line)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    return output


def kill_when(process: subprocess.Popen[str], home: Path, stage: str) -> None:
    """Kill a process with SIGKILL as soon as something of the stage is finished."""
    try:
        wait_until(lambda: REACHED[stage](home) or process.poll() is not None, seconds=math.inf)
    finally:
        process.kill()
        output, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, output


def children_of(folder: Path) -> list[int]:
    """Return the live child processes whose job lies below a folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"dire_plug.upstream.child" in words and any(word.startswith(f"{folder}/".encode()) for word in words):
            found.append(int(entry.name))
    return found


@pytest.mark.parametrize("stage", list(REACHED))
def test_a_killed_run_goes_on_and_ends_with_the_same_bits(
    cli: Cli, bare_home: Path, long_recipe: Path, whole: Whole, stage: str
) -> None:
    line = ("run", "sre2l", "--recipe", long_recipe, "--engine", "native", "--dire")
    kill_when(start_process(*line, program=IMPATIENT), bare_home, stage)
    run = RunFolder(only_run(bare_home))
    assert (run.state(), run.status()["stage"]) == ("interrupted", stage)
    kept = when_made(bare_home)
    output = finish(*line)
    assert outcome(run.path) == whole.given
    if stage == "recover":
        assert " of 4 passes were finished before" in output
    assert kept.items() <= when_made(bare_home).items()
    assert list((bare_home / "store" / "work").iterdir()) == []
    assert [f"sre2l/long/{run.path.name}", "finished"] in [cells[:2] for cells in read_rows(cli("list", "runs").out)]


# The upstream engine, on the third-party package's toy.


@pytest.fixture
def toy_line(third_party: ThirdParty, tmp_path: Path) -> list[object]:
    """A run of the toy's own script whose passes last long enough to be hit."""
    recipe = third_party.site / "toy_net_plugin" / "recipes" / "small.yaml"
    path = tmp_path / "long.yaml"
    path.write_text(recipe.read_text().replace("flags: {steps: 4}", "flags: {steps: 300}"))
    return ["run", "toy-net", "--recipe", path, "--arm", "spread"]


@pytest.mark.parametrize("victim", ["parent", "child"])
def test_the_toys_own_script_goes_on_after_a_kill(
    cli: Cli, tmp_path: Path, toy_line: list[object], monkeypatch: pytest.MonkeyPatch, victim: str
) -> None:
    for name in ("whole", "killed"):
        monkeypatch.setenv("DIRE_PLUG_HOME", str(tmp_path / name))
        assert cli("vendor", "toy-net").code == 0
        if name == "whole":
            assert cli(*toy_line).code == 0
    check_kill(tmp_path, toy_line, victim=victim)
    assert outcome(only_run(tmp_path / "killed")) == outcome(only_run(tmp_path / "whole"))


def check_kill(folder: Path, line: list[object], *, victim: str) -> None:
    """Kill parent or child after the first pass, look at what is left, and run the same command again."""
    home = folder / "killed"
    process = start_process(*line)
    try:
        wait_until(lambda: REACHED["recover"](home) or process.poll() is not None, seconds=math.inf)
        run = RunFolder(only_run(home))
        (child,) = children_of(home / "store")
        os.kill(process.pid if victim == "parent" else child, signal.SIGKILL)
    except BaseException:
        process.kill()
        print(process.communicate()[0])
        raise
    output, _ = process.communicate()
    wait_until(lambda: not children_of(home / "store"))
    if victim == "parent":
        assert process.returncode == -signal.SIGKILL
        assert (run.state(), run.status()["stage"]) == ("interrupted", "recover")
    else:
        assert process.returncode == 1
        assert "was ended by SIGKILL (the machine may be out of memory)" in output
        assert "Traceback" not in output
        assert (run.state(), run.status()["stage"]) == ("failed", "recover")
    output = finish(*line)
    assert "passes were finished before" in output


# The upstream engine, on SRe2L's own script.


@pytest.fixture
def sre2l_home(bare_home: Path) -> Path:
    """A home with SRe2L's own code; skipped where that can't be fetched."""
    vendor_or_skip(SRe2L())
    return bare_home


@pytest.mark.upstream
@pytest.mark.parametrize("victim", ["parent", "child"])
def test_sre2ls_own_script_goes_on_after_a_kill(
    sre2l_home: Path, long_recipe: Path, whole: Whole, monkeypatch: pytest.MonkeyPatch, victim: str
) -> None:
    folder = sre2l_home.parent
    sre2l_home.rename(folder / "killed")
    monkeypatch.setenv("DIRE_PLUG_HOME", str(folder / "killed"))
    check_kill(folder, ["run", "sre2l", "--recipe", long_recipe, "--engine", "upstream", "--dire"], victim=victim)
    given = outcome(only_run(folder / "killed"))
    assert given["metrics"].pop("engine") == "upstream"
    expected = json.loads(json.dumps(whole.given["metrics"]))
    assert expected.pop("engine") == "native"
    assert given["metrics"] == expected
    assert {key: value for key, value in given.items() if key != "metrics"} == {
        key: value for key, value in whole.given.items() if key != "metrics"
    }
