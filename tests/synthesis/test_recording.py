"""The loss record: which steps it keeps, what stands in it, and that it changes nothing."""

import itertools
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from support.cli import Cli
from support.small_run import native, only_run, watch_passes
from support.synthesis_loop import STEPS, Term, make, run_pass
from support.third_party_plugin import ThirdParty
from torch import Tensor

from dire_plug.errors import DirePlugError
from dire_plug.files import read_json, write_json
from dire_plug.hookspecs import hookimpl
from dire_plug.pipeline import run_arm
from dire_plug.synthesis import gather_losses, recording
from dire_plug.synthesis.embeddings import Embeddings
from dire_plug.synthesis.recording import LossRecord, fetch, kept_steps
from dire_plug.types import Batch, Slot, Synthesis


def gather(folder: Path) -> dict[str, Any]:
    found = gather_losses({0: folder / "passes"})
    assert found is not None
    return found


def test_a_short_slot_keeps_all_of_its_steps_and_a_long_one_a_hundred() -> None:
    assert kept_steps(3) == [0, 1, 2]
    assert kept_steps(100) == list(range(100))
    for steps in (101, 1000, 3000):
        kept = kept_steps(steps)
        assert (len(set(kept)), kept[0], kept[-1]) == (100, 0, steps - 1)
        gaps = {later - earlier for earlier, later in itertools.pairwise(kept)}
        assert max(gaps) - min(gaps) <= 1


def test_a_baseline_has_upstreams_loss_alone(tmp_path: Path) -> None:
    seen: list[float] = []

    class Listener:
        @hookimpl
        def step_done(self, losses: dict[str, Tensor]) -> None:
            seen.append(float(losses["upstream"]))

    run_pass(make(tmp_path, listener=Listener()))
    found = gather(tmp_path)
    assert found["steps"] == list(range(STEPS))
    assert found["mean"] == {"upstream": pytest.approx(seen, rel=1e-6)}
    assert found["slots"] == [{"pass": 0, "batch": 0, "values": found["mean"]}]
    assert found["slots_run"] == 1


def test_terms_stand_beside_it_and_one_that_skips_a_step_leaves_a_gap(tmp_path: Path) -> None:
    every, first = Term(lambda b: b.embeddings.sum()), Term(lambda b: b.embeddings.sum() if b.step == 0 else None)
    run_pass(make(tmp_path, every=every, first=first))
    values = gather(tmp_path)["mean"]
    assert sorted(values) == ["every", "first", "upstream"]
    assert values["first"] == [values["every"][0], None]


def test_a_term_is_recorded_as_it_was_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Embeddings.embed
    monkeypatch.setattr(Embeddings, "embed", lambda *a, **k: ((*one[:3], 2.5) for one in original(*a, **k)))
    seen: list[float] = []

    class Parted:
        @hookimpl
        def loss_term(self, synthesis: Synthesis, batch: Batch) -> Tensor:
            seen.append(float(batch.embeddings.detach().sum()))
            synthesis.record("part", batch.embeddings.sum(), component=True)
            synthesis.record("other", 3.0)
            return batch.embeddings.sum()

    _, total = run_pass(make(tmp_path, term=Parted()))
    values = gather(tmp_path)["mean"]
    assert values["term/part"] == values["term"]
    assert values["term/other"] == [3.0, 3.0]
    assert values["term"] == pytest.approx([2.5 * value for value in seen], rel=1e-6)
    assert float(total) == pytest.approx(values["upstream"][-1] + values["term"][-1], rel=1e-6)


def test_a_plugin_records_scalars_under_its_name(tmp_path: Path) -> None:
    class Weighted:
        @hookimpl
        def loss_term(self, synthesis: Synthesis, batch: Batch) -> Tensor:
            synthesis.record("weight", 0.5 * batch.step)
            return batch.embeddings.sum()

        @hookimpl
        def step_done(self, synthesis: Synthesis, batch: Batch) -> None:
            synthesis.record("sum", batch.images.sum())
            synthesis.record("bad", float("inf"))
            sums.append(float(batch.images.detach().sum()))

    sums: list[float] = []
    run_pass(make(tmp_path, weighted=Weighted()))
    values = gather(tmp_path)["mean"]
    assert values["weighted/weight"] == [0.0, 0.5]
    assert values["weighted/sum"] == pytest.approx(sums, rel=1e-6)
    assert values["weighted/bad"] == [None, None]


def saved(record: LossRecord, folder: Path) -> Any:
    """Return what a pass of one slot leaves: name → step → value."""
    record.save(folder, 0)
    (slot,) = read_json(folder / "losses-000.json")["slots"]
    assert slot["batch"] == 0
    return slot["curves"]


def test_parts_have_the_factors_of_their_own_term(tmp_path: Path) -> None:
    record = LossRecord(2)
    record.begin_pass()
    record.name("a/part/x", 8.0, part=True)
    assert record.take_parts() == ["a/part/x"]
    record.name("a/part/y", 8.0, part=True)
    record.name("a/other", 8.0)
    assert record.take_parts() == ["a/part/y"]
    record.scale({"a/part/x": 0.25, "a/part/y": torch.tensor(0.125)})
    record.name("c/part", torch.tensor(8.0), part=True)
    record.scale({"c/part": 1.0})
    record.step_done(0, {})
    record.name("c/part", 7.0, part=True)  # of no term
    record.step_done(1, {})
    record.slot_done(Slot(0, 0))
    curves = saved(record, tmp_path)
    first = {name: curve["0"] for name, curve in curves.items()}
    assert first == {"a/part/x": 2.0, "a/part/y": 1.0, "a/other": 8.0, "c/part": 8.0}
    assert curves["c/part"]["1"] == 7.0


def test_what_is_no_scalar_is_refused_with_the_plugins_name(tmp_path: Path) -> None:
    class Wrong:
        @hookimpl
        def step_done(self, synthesis: Synthesis, batch: Batch) -> None:
            synthesis.record("all", batch.embeddings)

    with pytest.raises(DirePlugError, match=r"plugin 'wrong': record 'all': a scalar is needed.*\(3, 4\)"):
        run_pass(make(tmp_path, wrong=Wrong()))


def test_values_are_fetched_once_a_slot_and_no_image_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[int] = []

    def note(values: list[torch.Tensor | float]) -> list[float | None]:
        fetched.append(len(values))
        return fetch(values)

    monkeypatch.setattr(recording, "fetch", note)
    before = torch.random.get_rng_state(), random.getstate()
    images, _ = run_pass(make(tmp_path, term=Term(lambda b: b.embeddings.sum())))
    assert fetched == [2 * STEPS]
    torch.random.set_rng_state(before[0])
    for name in ("step_done", "slot_done", "save", "name"):
        monkeypatch.setattr(LossRecord, name, lambda *given: None)
    (tmp_path / "other").mkdir()
    unrecorded, _ = run_pass(make(tmp_path / "other", term=Term(lambda b: b.embeddings.sum())))
    assert torch.equal(images, unrecorded)
    assert gather_losses({0: tmp_path / "other" / "passes"}) is None


def record_slots(folder: Path, count: int) -> None:
    """Leave one pass of `count` slots of two steps, whose loss is the slot's number plus the step's."""
    record = LossRecord(2)
    record.begin_pass()
    for batch in range(count):
        for step in range(2):
            record.step_done(step, {"upstream": torch.tensor(float(batch + step))})
        record.slot_done(Slot(0, batch))
    record.save(folder / "passes", 0)


def test_of_many_slots_some_are_kept_and_the_mean_is_over_all(tmp_path: Path) -> None:
    record_slots(tmp_path, 101)
    found = gather(tmp_path)
    batches = [slot["batch"] for slot in found["slots"]]
    assert (found["slots_run"], len(batches), batches[0], batches[-1]) == (101, recording.SLOTS, 0, 100)
    assert found["mean"]["upstream"] == [50.0, 51.0]


def test_an_unfinished_pass_leaves_nothing_in_the_next(tmp_path: Path) -> None:
    record = LossRecord(2)
    record.begin_pass()
    record.step_done(1, {"upstream": torch.tensor(9.0)})
    record.begin_pass()
    record.step_done(0, {"upstream": torch.tensor(1.0)})
    record.slot_done(Slot(0, 0))
    assert saved(record, tmp_path) == {"upstream": {"0": 1.0}}


def test_passes_without_a_record_are_left_out(tmp_path: Path) -> None:
    folders = dict.fromkeys(range(3), tmp_path)
    assert gather_losses(folders) is None
    slots = [{"batch": 0, "curves": {"upstream": {"0": 2.0}}}]
    write_json(tmp_path / "losses-001.json", {"pass": 1, "slots": slots})
    found = gather_losses(folders)
    assert found is not None
    assert [slot["pass"] for slot in found["slots"]] == [1]


def test_a_finished_run_has_its_losses(baseline: Path) -> None:
    found = read_json(baseline / "losses.json")
    assert found["steps"] == [0, 1, 2]
    assert [(slot["pass"], slot["batch"]) for slot in found["slots"]] == [(0, 0), (1, 0)]
    assert list(found["mean"]) == ["upstream"]
    assert found["mean"]["upstream"][0] == pytest.approx(
        sum(slot["values"]["upstream"][0] for slot in found["slots"]) / 2, rel=1e-6
    )


def test_a_resumed_run_has_the_losses_of_all_passes(home: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        watch_passes(patch, stop_before=1)
        with pytest.raises(DirePlugError, match="stopped"):
            run_arm(native(recipe, seed=1))
    (kept,) = (home / "store" / "pass").glob("*/losses-000.json")
    first = read_json(kept)["slots"][0]["curves"]["upstream"]
    run_arm(native(recipe, seed=1))
    slots = read_json(only_run(home) / "losses.json")["slots"]
    assert [slot["pass"] for slot in slots] == [0, 1]
    assert slots[0]["values"]["upstream"] == list(first.values())


@pytest.mark.slow
def test_upstreams_own_script_leaves_its_losses(cli: Cli, bare_home: Path, third_party: ThirdParty) -> None:
    assert cli("vendor", "toy-net").code == 0
    recipe = third_party.site / "toy_net_plugin" / "recipes" / "small.yaml"
    answer = cli("run", "toy-net", "--recipe", recipe, "--arm", "spread")
    assert answer.code == 0, answer.err
    assert list(read_json(only_run(bare_home) / "losses.json")["mean"]) == ["upstream", "spread"]
