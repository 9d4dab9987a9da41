"""The run directory: its name, which is its identity, and the files that every run has."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dire_plug.errors import DirePlugError
from dire_plug.files import digest, make_folder, read_json, write_json
from dire_plug.runs.lock import holder

STAGE_FORMAT = 3
"""Raised when a stage's output changes meaning: older runs are then other runs."""


@dataclass(frozen=True)
class RunFolder:
    """One run on disk."""

    path: Path

    @property
    def lock(self) -> Path:
        """The lock file."""
        return self.path.with_name(f".{self.path.name}.lock")

    def status(self) -> dict[str, Any]:
        """Return status.json, or that nothing has been done."""
        file = self.path / "status.json"
        found = read_json(file) if file.is_file() else {"state": "new"}
        if not isinstance(found, dict):
            raise DirePlugError(f"{file}: holds no run status; remove the folder to run again")
        return found

    def state(self) -> str:
        """Return new, running, interrupted, failed or finished."""
        state = str(self.status().get("state", "new"))
        return "interrupted" if state == "running" and holder(self.lock) is None else state

    def set_status(self, state: str, *, stage: str, **more: Any) -> None:
        """Write status.json."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        write_json(self.path / "status.json", {"state": state, "stage": stage, "updated": now, **more})

    def metrics(self) -> dict[str, Any]:
        """Return metrics.json of a finished run."""
        found = read_json(self.path / "metrics.json")
        if not isinstance(found, dict) or "accuracy" not in found or "diversity" not in found:
            raise DirePlugError(f"{self.path / 'metrics.json'}: holds no run's metrics; remove the folder to run again")
        return found

    def make(self) -> None:
        """Make the folder."""
        make_folder(self.path)


def run_folder(root: Path, *, method: str, recipe: str, arm: str, seed: int, identity: dict[str, Any]) -> RunFolder:
    """Return the folder of a run: `root/method/recipe/arm-seed-id`, id the first 8 hex of the identity's hash.

    Args:
        identity: all that changes what comes out (resolved recipe, arm, seed, engine, commit, patch and data digests);
            not device, paths or time.
    """
    name = digest({"stage_format": STAGE_FORMAT, **identity})[:8]
    return RunFolder(root / method / recipe / f"{arm}-{seed}-{name}")


def list_runs(root: Path) -> list[RunFolder]:
    """Return the runs below `root`, by path."""
    return [RunFolder(file.parent) for file in sorted(root.glob("*/*/*/status.json"))]


def find_run(root: Path, name: str) -> RunFolder:
    """Return the run with this path, folder name, or unambiguous part of a name.

    Raises:
        DirePlugError: none or several match.
    """
    if (Path(name) / "status.json").is_file():
        return RunFolder(Path(name).absolute())
    matching = [run for run in list_runs(root) if name in str(run.path.relative_to(root))]
    if len(matching) == 1:
        return matching[0]
    found = ", ".join(str(run.path.relative_to(root)) for run in matching[:5])
    raise DirePlugError(
        f"'{name}' names {len(matching)} runs below {root}" + (f": {found}" if found else "; see `dire-plug list runs`")
    )
