"""`--log`: finished runs in TensorBoard and Weights & Biases, once each, outside of every identity."""

from pathlib import Path
from typing import Any

import pytest
from support.cli import Cli
from support.small_run import made_by_kind, only_run

from dire_plug import plugins
from dire_plug.files import read_json
from dire_plug.hookspecs import hookimpl
from dire_plug.loggers import by_step


def test_losses_are_read_step_by_step_without_what_was_not_finite() -> None:
    losses = {"steps": [0, 9], "mean": {"upstream": [1.0, None], "dire": [0.5, 0.25]}}
    assert by_step(losses) == {0: {"loss/upstream": 1.0, "loss/dire": 0.5}, 9: {"loss/dire": 0.25}}
    assert by_step(None) == {}


def test_tensorboard_has_each_step_once_however_often_a_run_is_shown(
    cli: Cli, finished_home: Path, recipe: Path
) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    run, made = only_run(finished_home), made_by_kind(finished_home)
    before = (run / "metrics.json").read_bytes()
    for _ in range(2):
        answer = cli("run", "sre2l", "--recipe", recipe, "--engine", "native", "--log", "tensorboard")
        assert (answer.code, "warning: --log" in answer.err) == (0, False), answer.err
        assert f"tensorboard --logdir {run.parents[2]}" in answer.err
    found = reader.EventAccumulator(str(run / "tensorboard"))
    found.Reload()
    losses = read_json(run / "losses.json")
    assert [event.step for event in found.Scalars("loss/upstream")] == losses["steps"]
    assert [event.value for event in found.Scalars("loss/upstream")] == pytest.approx(losses["mean"]["upstream"])
    assert len(found.Scalars("metrics/accuracy_last")) == 1
    # nothing was made, no other run, no other number
    assert (only_run(finished_home), made_by_kind(finished_home)) == (run, made)
    assert (run / "metrics.json").read_bytes() == before


@pytest.mark.slow
def test_wandb_gets_a_run_once_and_offline(
    cli: Cli, finished_home: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb", reason="wandb isn't installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = only_run(finished_home)
    for _ in range(2):
        answer = cli("run", "sre2l", "--recipe", recipe, "--engine", "native", "--log", "wandb")
        assert (answer.code, "--log" in answer.err) == (0, False), answer.err
    assert len(list((run / "wandb").glob("offline-run-*"))) == 1
    assert read_json(run / "wandb.json")["id"].startswith(run.name)


class Failing:
    @hookimpl
    def run_done(self, metrics: dict[str, Any]) -> None:
        raise OSError(f"disk full after {metrics['arm']}")


def test_a_logger_that_fails_leaves_the_run_finished(
    cli: Cli, finished_home: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins, "load_loggers", lambda names: plugins.build_manager({"mine": Failing()}))
    answer = cli("run", "sre2l", "--recipe", recipe, "--engine", "native", "--log", "mine")
    assert answer.code == 0
    assert "warning: --log mine: OSError: disk full after baseline; the run itself is finished and kept" in answer.err


class Broken:
    def __init__(self) -> None:
        raise KeyError("TOKEN")


def test_a_logger_that_cannot_be_made_is_an_error_of_its_package(
    cli: Cli, bare_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = plugins.load
    monkeypatch.setattr(plugins, "load", lambda kind, name: Broken if kind == "loggers" else load(kind, name))
    answer = cli("run", "sre2l", "--engine", "native", "--log", "mine")
    assert "logger 'mine': it cannot be made: KeyError('TOKEN')" in answer.err
    assert "unexpected error" not in answer.err


def test_an_unknown_logger_is_said_before_anything_runs(cli: Cli, bare_home: Path) -> None:
    answer = cli("compare", "sre2l", "--engine", "native", "--log", "tensorbord")
    assert answer.code == 2
    assert answer.err.startswith("error: unknown logger 'tensorbord' (did you mean 'tensorboard'?)")
    assert not (bare_home / "runs").exists()
