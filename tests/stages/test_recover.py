"""Recover: passes that are there are kept, holes are filled, and sets too large for one file stay in their passes."""

import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.small_run import forget, native, only_run, outcome, watch_passes, write_recipe

from dire_plug import ui
from dire_plug.errors import DirePlugError
from dire_plug.files import read_json
from dire_plug.models.checkpoint import load, save
from dire_plug.pipeline import run_arm
from dire_plug.pipeline.request import plan_run, with_data
from dire_plug.stages import recover
from dire_plug.stages.artefacts import (
    Inputs,
    Networks,
    name_batches,
    name_inputs,
    name_networks,
    name_recovered,
    name_term_embeddings,
)
from dire_plug.stages.embed import embed
from dire_plug.stages.prepare import prepare
from dire_plug.stages.recover import recover_pass, recover_slots
from dire_plug.stages.squeeze import FACTS, FILE, network_file, squeeze
from dire_plug.store.runs import Request, Run
from dire_plug.synthesis import RunningSynthesis
from dire_plug.types import Slot
from dire_plug.types.artefact import Artefact

BANK = {"ipc": 4, "arms": {"dire": {"overrides": {"recover": {"plan": {"per_class": 1}, "bank": True}}}}}
"""Four passes, each of which begins from what the regularizer kept after the pass before."""


def passes_of(request: Request) -> list[Artefact]:
    """Return the passes of a run in order."""
    run = with_data(plan_run(request))
    networks = name_networks(run)
    inputs = name_inputs(run, networks)
    return name_recovered(run, networks, inputs, name_term_embeddings(run, networks, inputs))[1]


BATCHES = {"ipc": 4, "recover": {"flags": {"batch-size": 25, "iteration": 3}}}
"""Four batches a pass; regrouped in the arms dire and control, two passes."""


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


# Batches.


@pytest.fixture
def batches(tmp_path: Path) -> Path:
    """A recipe with four batches a pass."""
    return write_recipe(tmp_path / "batches.yaml", BATCHES)


def watch_steps(patch: pytest.MonkeyPatch, *, stop_in: tuple[int, int] | None = None) -> list[tuple[int, int]]:
    """Return a list that gets (pass, batch) of each batch that does steps; let one end in its second step."""
    seen: list[tuple[int, int]] = []
    begun: Counter[int] = Counter()
    begin_pass, labels, step_done = RunningSynthesis.begin_pass, RunningSynthesis.labels, RunningSynthesis.step_done

    def watched_pass(self: RunningSynthesis, index: int) -> None:
        begun[index] = 0
        begin_pass(self, index)

    def watched_labels(self: RunningSynthesis, *given: Any) -> Any:
        begun[self.pass_index] += 1
        return labels(self, *given)

    def watched_step(self: RunningSynthesis, *given: Any, step: int, **more: Any) -> None:
        step_done(self, *given, step=step, **more)
        here = self.pass_index, begun[self.pass_index] - 1
        if here not in seen:
            seen.append(here)
        if here == stop_in and step == 1:
            raise KeyboardInterrupt

    patch.setattr(RunningSynthesis, "begin_pass", watched_pass)
    patch.setattr(RunningSynthesis, "labels", watched_labels)
    patch.setattr(RunningSynthesis, "step_done", watched_step)
    return seen


@dataclass(frozen=True)
class Prepared:
    """A run whose networks, inputs and embeddings are there."""

    run: Run
    networks: Networks
    inputs: Inputs
    embeddings: dict[str, Artefact]
    log: Path

    def make(self, index: int, *batches: int) -> None:
        """Make batches of a pass."""
        recover_slots(self.run, self.networks, self.inputs, self.embeddings, index=index, batches=batches, log=self.log)

    def make_pass(self, index: int) -> None:
        """Make a pass."""
        recover_pass(self.run, self.networks, self.inputs, self.embeddings, index=index, log=self.log)

    @property
    def named(self) -> tuple[list[list[Artefact]], list[Artefact]]:
        """The batches of each pass, and the passes."""
        synthesis, passes = name_recovered(self.run, self.networks, self.inputs, self.embeddings)
        return [name_batches(self.run, synthesis, index) for index in range(len(passes))], passes


def prepared(request: Request, folder: Path) -> Prepared:
    """Make what comes before the synthesis of a run."""
    run = with_data(plan_run(request))
    networks = squeeze(run)
    inputs = prepare(run, networks)
    return Prepared(run, networks, inputs, dict(embed(run, networks, inputs)), folder / "log.txt")


@pytest.mark.parametrize("arm", ["baseline", "dire"])
def test_a_killed_pass_resumes_at_its_batch_with_the_same_bits(
    tmp_path: Path, batches: Path, monkeypatch: pytest.MonkeyPatch, arm: str
) -> None:
    given = []
    for name in ("whole", "killed"):
        monkeypatch.setenv("DIRE_PLUG_HOME", str(tmp_path / name))
        forget()
        if name == "killed":
            with monkeypatch.context() as patch:
                watch_steps(patch, stop_in=(1, 2))
                with pytest.raises(KeyboardInterrupt):
                    run_arm(native(batches, arm))
            forget()
            with monkeypatch.context() as patch:
                made = watch_steps(patch)
                run_arm(native(batches, arm))
            last = {"baseline": 4, "dire": 2}[arm]
            assert made == [(1, 2), (1, 3)] + [(index, batch) for index in range(2, last) for batch in range(4)]
        else:
            run_arm(native(batches, arm))
        run = only_run(tmp_path / name)
        given.append(outcome(run) | {"losses": read_json(run / "losses.json")})
    assert given[0] == given[1]
    assert list((tmp_path / "killed" / "store" / "work").iterdir()) == []


def test_batches_made_apart_have_the_bits_of_one_process(
    tmp_path: Path, batches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIRE_PLUG_HOME", str(tmp_path / "whole"))
    forget()
    run_arm(native(batches, "dire"))
    monkeypatch.setenv("DIRE_PLUG_HOME", str(tmp_path / "apart"))
    forget()
    one = prepared(native(batches, "dire"), tmp_path)
    with monkeypatch.context() as patch:
        made = watch_steps(patch)
        one.make(0, 3, 1)
        one.make(0, 0)
        one.make(0, 0, 1, 2)
        # in another order and grouping, and a part of a pass
        one.make(1, 2)
        assert made == [(0, 1), (0, 3), (0, 0), (0, 2), (1, 2)]
    (first, second), passes = one.named
    assert all(one.run.store.find(batch) is not None for batch in first)
    assert [one.run.store.find(batch) is not None for batch in second] == [False, False, True, False]
    assert [one.run.store.find(whole) for whole in passes] == [None, None]
    with monkeypatch.context() as patch:
        made = watch_steps(patch)
        one.make_pass(0)
        assert made == []
        run_arm(native(batches, "dire"))
        assert made == [(1, 0), (1, 1), (1, 3)]
    whole, apart = (only_run(tmp_path / name) for name in ("whole", "apart"))
    assert outcome(whole) == outcome(apart)
    assert read_json(whole / "losses.json") == read_json(apart / "losses.json")


def test_a_batch_of_a_process_holds_its_own_images_alone(tmp_path: Path, home: Path, batches: Path) -> None:
    one = prepared(native(batches, "dire"), tmp_path)
    one.make(0, 2)
    ((_, _, batch, _), _), _ = one.named
    files = sorted(path.relative_to(one.run.store.path(batch)) for path in one.run.store.path(batch).rglob("*.jpg"))
    planned = one.run.plan.slot(Slot(0, 2))
    assert files == sorted(
        Path("images") / one.run.adapter.image_path(*pair) for pair in zip(planned.labels, planned.images, strict=True)
    )


def test_the_progress_of_some_batches_counts_these_alone(tmp_path: Path, home: Path, batches: Path) -> None:
    one, told = prepared(native(batches, "dire"), tmp_path), []
    with ui.following(lambda doing, done, total: told.append((done, total))):
        one.make(1, 1, 3)
    steps = one.run.adapter.steps(one.run.recipe.recover)
    # the end of each slot is always told
    assert {(0, 2 * steps), (steps, 2 * steps), (2 * steps, 2 * steps)} <= set(told)
    assert told == sorted(told)
    assert {total for _, total in told} == {2 * steps}


def test_a_run_keeps_the_batches_of_its_missing_passes_from_clean(
    home: Path, batches: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        watch_steps(patch, stop_in=(1, 2))
        with pytest.raises(KeyboardInterrupt):
            run_arm(native(batches, "dire"))
    folder = only_run(home)
    kept = [name for name, role in read_json(folder / "artefacts.json").items() if role == "batch"]
    assert len(kept) == 8
    run_arm(native(batches, "dire"))
    assert "batch" not in read_json(folder / "artefacts.json").values()


def test_upstreams_own_plan_and_a_bank_have_no_batches_of_their_own(tmp_path: Path, home: Path, batches: Path) -> None:
    bank = write_recipe(tmp_path / "bank.yaml", BATCHES | {"arms": BANK["arms"]})
    for request in (native(batches), native(bank, "dire")):
        assert prepared(request, tmp_path).named[0][0] == []
