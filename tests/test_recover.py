"""Recover: what a changed teacher does to finished passes, and sets too large for one file."""

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from tiny import only_run, run_folders

from dire_plug.errors import DirePlugError
from dire_plug.files import read_json, write_json
from dire_plug.native import sre2l
from dire_plug.pipeline import Request, run_arm
from dire_plug.stages import gather


def request(recipe: Path) -> Request:
    return Request("sre2l", recipe=str(recipe), engine="native", seed=1)


def stop_before_pass(index: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the native loop fail when it is to begin a pass."""
    original = sre2l.recover_pass

    def recover_pass(synthesis: Any, *rest: Any) -> Any:
        if synthesis.pass_index == index:
            raise DirePlugError("stopped")
        return original(synthesis, *rest)

    monkeypatch.setattr(sre2l, "recover_pass", recover_pass)


def test_passes_of_another_teacher_are_dropped(
    home: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        stop_before_pass(1, patch)
        with pytest.raises(DirePlugError, match="stopped"):
            run_arm(request(recipe))
    folder = only_run(home)
    assert [path.name for path in (folder / "passes").glob("pass-???.safetensors")] == ["pass-000.safetensors"]
    inputs = read_json(folder / "inputs.json")
    write_json(folder / "inputs.json", {**inputs, "teacher": "0" * 64})
    passes = []
    original = sre2l.recover_pass
    monkeypatch.setattr(
        sre2l,
        "recover_pass",
        lambda synthesis, *rest: passes.append(synthesis.pass_index) or original(synthesis, *rest),
    )
    run_arm(request(recipe))
    assert passes == [0, 1]
    assert "recover starts again" in capfd.readouterr().err
    assert read_json(folder / "inputs.json") == inputs


def test_finished_passes_of_the_same_teacher_are_kept(
    home: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_before_pass(1, patch)
        with pytest.raises(DirePlugError, match="stopped"):
            run_arm(request(recipe))
    with monkeypatch.context() as patch:
        stop_before_pass(0, patch)
        run_arm(request(recipe))
    assert read_json(only_run(home) / "seconds.json")["resumed_at_pass"] == 1


def test_a_set_too_large_for_one_file_stays_in_its_passes(
    home: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gather, "MOST_BYTES", 1000)
    run_arm(request(recipe))
    (folder,) = run_folders(home)
    assert not (folder / "images.safetensors").exists()
    assert load_file(folder / "passes" / "pass-001-batch-0000.safetensors")["index"].tolist() == [1] * 10
