"""Recover: passes that are there are kept, holes are filled, and sets too large for one file stay in their passes."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.small_run import forget, native, only_run, outcome, watch_passes, write_recipe

from dire_plug.errors import DirePlugError
from dire_plug.models.checkpoint import load, save
from dire_plug.pipeline import run_arm
from dire_plug.pipeline.request import plan_run, with_data
from dire_plug.stages import recover
from dire_plug.stages.artefacts import name_inputs, name_networks, name_recovered, name_term_embeddings
from dire_plug.stages.squeeze import FACTS, FILE, network_file
from dire_plug.store.artefacts import Artefact
from dire_plug.store.runs import Request

BANK = {"ipc": 4, "arms": {"dire": {"overrides": {"recover": {"plan": {"per_class": 1}, "bank": True}}}}}
"""Four passes, each of which begins from what the regularizer kept after the pass before."""


def passes_of(request: Request) -> list[Artefact]:
    """Return the passes of a run in order."""
    run = with_data(plan_run(request))
    networks = name_networks(run)
    inputs = name_inputs(run, networks)
    return name_recovered(run, networks, inputs, name_term_embeddings(run, networks, inputs))[1]


def test_a_finished_pass_is_an_entry_at_once_and_isnt_made_again(
    home: Path, recipe: Path, baseline: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        watch_passes(patch, stop_before=1)
        with pytest.raises(DirePlugError, match="stopped"):
            run_arm(native(recipe))
    first, second = (home / "store" / one.name / "entry.json" for one in passes_of(native(recipe)))
    assert (first.is_file(), second.is_file()) == (True, False)
    begun = watch_passes(monkeypatch)
    run_arm(native(recipe))
    assert begun == [1]
    assert "1 of 2 passes were finished before" in capfd.readouterr().err
    assert outcome(only_run(home)) == outcome(baseline)


def test_a_pass_that_was_finished_but_not_published_is_not_made_again(
    home: Path, recipe: Path, baseline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(recover.PassPublisher, "__call__", fail)
        with pytest.raises(KeyboardInterrupt):
            run_arm(native(recipe))
    assert not list((home / "store").glob("pass/*"))
    begun = watch_passes(monkeypatch)
    run_arm(native(recipe))
    assert begun == [1]
    assert outcome(only_run(home)) == outcome(baseline)
    assert list((home / "store" / "work").iterdir()) == []


def put_in_another_teacher(request: Request) -> None:
    """Make other weights the teacher, as if it had been trained again on another machine."""
    run = with_data(plan_run(request))
    teacher = name_networks(run).teacher
    network = load(network_file(run, teacher), torch.device("cpu"))
    with torch.no_grad():
        for one in network.model.parameters():
            one.mul_(1.01)
    work = run.store.work(teacher)
    save(work / FILE, network)
    shutil.copy(run.store.path(teacher) / FACTS, work)
    run.store.publish(teacher, work, seconds=0)


def test_what_was_begun_with_another_teacher_begins_again(
    home: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        watch_passes(patch, stop_before=1)
        with pytest.raises(DirePlugError, match="stopped"):
            run_arm(native(recipe))
    entry, _ = passes_of(native(recipe))
    put_in_another_teacher(native(recipe))
    forget()
    begun = watch_passes(monkeypatch)
    run_arm(native(recipe))
    assert begun == [0, 1]
    told = capfd.readouterr().err
    assert f"store: {entry.name} was made from another network than the one that is here" in told
    assert "was begun from other inputs than those in the store now; it starts again" in told


def test_a_chain_is_made_again_from_its_first_hole_on_with_the_same_bits(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = native(write_recipe(tmp_path / "bank.yaml", BANK), "dire")
    run_arm(request)
    whole = outcome(only_run(home))
    passes = [home / "store" / one.name for one in passes_of(request)]
    for folder in (passes[1], passes[3]):
        shutil.rmtree(folder)
    forget()
    begun = watch_passes(monkeypatch)
    run_arm(request)
    assert begun == [1, 2, 3]  # with other bits in the first of them, all that follow would be others
    assert outcome(only_run(home)) == whole


def test_a_set_too_large_for_one_file_stays_in_its_passes(
    home: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recover, "MOST_BYTES", 1000)
    run_arm(native(recipe))
    folder = only_run(home)
    assert not (folder / "images.safetensors").exists()
    assert load_file(folder / "passes" / "pass-001-batch-0000.safetensors")["index"].tolist() == [1] * 10
