"""A recipe so small that a whole run takes about a second, and what tests do with runs."""

import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from dire_plug.errors import DirePlugError
from dire_plug.files import read_json
from dire_plug.home import resource
from dire_plug.native import sre2l
from dire_plug.pipeline import Request
from dire_plug.recipe import read_yaml
from dire_plug.recipe.loading import merge
from dire_plug.store.runs import open_store

PROGRAM = "from dire_plug.cli import main; main()"
CHANGES: dict[str, Any] = {
    "title": "SRe2L on a few digits, for tests",
    "dataset": {"limit": 100},
    "ipc": 2,
    "squeeze": {
        "teacher": {"architecture": "resnet-small", "epochs": 1},
        "independent": {"architecture": "convnet-small", "epochs": 1},
    },
    "recover": {"flags": {"iteration": 3}},
    "evaluate": {"students": ["resnet-small"], "epochs": 2, "test_every": 2},
    "arms": {
        "dire": {
            "overrides": {"recover": {"plan": {"per_class": 2}, "start": "noise"}},
            "regularizers": {"dire": {"multiplier": 0.3, "r_c": 1.0, "r_e": 0.03}},
        }
    },
}
"""What makes the recipe `quick` tiny, without its grey networks, its real start and its weights; networks hardly learn,
so accuracies are those of chance."""


@dataclass(frozen=True)
class Answer:
    """What a command left: its exit code and its two streams."""

    code: int
    out: str
    err: str


def write_recipe(path: Path, changes: Mapping[str, Any] | None = None) -> Path:
    """Write the tiny recipe, with `changes` laid over it, and return its path."""
    raw = read_yaml(resource("recipes") / "sre2l" / "quick.yaml")
    del raw["name"]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(merge(merge(raw, CHANGES), dict(changes or {})), sort_keys=False))
    return path


def native(recipe: Path, arm: str = "baseline", **more: Any) -> Request:
    """Return the request for a run of the tiny recipe by the native engine."""
    return Request("sre2l", recipe=str(recipe), arm=arm, **{"engine": "native", **more})


def watch_passes(patch: pytest.MonkeyPatch, *, stop_before: int | None = None) -> list[int]:
    """Return a list that gets the number of each pass that the native loop begins; let one of them fail."""
    begun: list[int] = []
    genuine = sre2l.recover_pass

    def recover_pass(synthesis: Any, *rest: Any) -> Any:
        if synthesis.pass_index == stop_before:
            raise DirePlugError("stopped")
        begun.append(synthesis.pass_index)
        return genuine(synthesis, *rest)

    patch.setattr(sre2l, "recover_pass", recover_pass)
    return begun


def read_rows(text: str) -> list[list[str]]:
    """Return the lines of printed tables as cells, whatever rules stand between them; empty cells may be left out."""
    return [re.split(r"\s*│\s*|\s{2,}", line.strip(" │")) for line in text.splitlines()]


def run_folders(home: Path) -> list[Path]:
    """Return the run folders below a home, by path."""
    return sorted(file.parent for file in home.glob("runs/*/*/*/status.json"))


def only_run(home: Path) -> Path:
    """Return the one run folder below a home."""
    (folder,) = run_folders(home)
    return folder


def outcome(run: Path) -> dict[str, Any]:
    """Return all that a run gave, but for seconds: the images' bytes and metrics.json."""
    metrics = {key: value for key, value in read_json(run / "metrics.json").items() if key != "recover"}
    files = sorted(path for path in (run / "images").rglob("*") if path.is_file())
    images = {path.relative_to(run).as_posix(): path.read_bytes() for path in (*files, run / "images.safetensors")}
    return {"metrics": metrics, **images}


def made_by_kind(home: Path) -> dict[str, set[str]]:
    """Return kind → names of the entries of a home's store."""
    found: dict[str, set[str]] = {}
    for file in (home / "store").glob("*/*/entry.json"):
        found.setdefault(file.parent.parent.name, set()).add(file.parent.name)
    return found


def when_made(home: Path) -> dict[str, int]:
    """Return the name of each entry of a home's store → when it was written, in nanoseconds."""
    files = (home / "store").glob("*/*/entry.json")
    return {file.parent.relative_to(home / "store").as_posix(): file.stat().st_mtime_ns for file in files}


def forget() -> None:
    """Let the next run know as little of the store as a new process does: entries are hashed before they are used."""
    open_store.cache_clear()


def start_process(*arguments: object, program: str = PROGRAM) -> subprocess.Popen[str]:
    """Start the command line in a process of its own, in this process's environment."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_until(happened: Callable[[], object], *, seconds: float = 120) -> None:
    """Fail if something doesn't happen in time; without a limit where the end of a process is such a thing, too."""
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.005)
