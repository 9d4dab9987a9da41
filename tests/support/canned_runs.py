"""Runs that never ran: their accuracy is what a test says."""

from collections.abc import Callable
from pathlib import Path

import pytest

from dire_plug.executors import dispatch
from dire_plug.pipeline import FinishedRun, Request
from dire_plug.store.runs import RunFolder

Score = Callable[[Request], float]
"""From a request to the accuracy of its run, in percent."""


def canned(name: str, seed: int, accuracy: float) -> FinishedRun:
    """Return a finished run of this accuracy, and measures that follow from it."""
    measures = {"coverage": accuracy / 200, "class_coverage": 0.5, "vendi": accuracy / 10, "class_vendi": 1.0}
    spaces = {space: {**measures, "similarity": 1 - accuracy / 100, "real": measures} for space in ("T", "I")}
    metrics = {
        "networks": {"teacher": "0f"},
        "accuracy": {"students": {"net": {"last": [accuracy], "best": [accuracy + 1]}}},
        "diversity": spaces,
    }
    return FinishedRun(RunFolder(Path(f"/runs/{name}-{seed}")), metrics, reused=True)


def score_runs(patch: pytest.MonkeyPatch, score: Score) -> list[Request]:
    """Let runs score what `score` says; return the list of requests that will have run."""
    asked: list[Request] = []

    def run_arm(asking: Request) -> FinishedRun:
        asked.append(asking)
        return canned(asking.arm, asking.seed, score(asking))

    patch.setattr(dispatch, "run_arm", run_arm)
    return asked
