"""The verdict on a patch, and what the checks say of a run; mutants: test_mutants.py."""

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from safetensors.torch import save_file
from support.upstreams import verified

from dire_plug.api.plans import ChunkedPlan
from dire_plug.errors import DirePlugError
from dire_plug.methods.sre2l import SRe2L
from dire_plug.regularizers.verify_probe import Probe, ProbeSettings
from dire_plug.types import Batch, RealEmbeddings, Slot, Synthesis
from dire_plug.upstream.verify.checks import (
    Event,
    ExpectedRun,
    check_answered,
    check_calls,
    check_handed_loss,
    compare_gradients,
)
from dire_plug.upstream.verify.observe import ExpectedGradients, Seen, reference_term
from dire_plug.upstream.verify.runs import RunHashes
from dire_plug.upstream.verify.verify import ScriptVerdict, check_something_to_compare, first_difference, verify

REAL = torch.rand(4, 6, generator=torch.Generator().manual_seed(1))
CLASSES = torch.arange(4)
SAME = RunHashes((("a",), ("b",)), {"x": "1"})
VERDICT: dict[str, Any] = {
    "script": "synth",
    "repeats": True,
    "steps": 2,
    "tensors": 2,
    "files": 1,
    "first": "a" * 64,
    "last": "b" * 64,
    "agreement": 3e-7,
    "calls": 20,
    "answers": ("start", "plan"),
    "accelerated": None,
    "cut": "resumes",
    "unseen": (),
    "problems": {},
}


@pytest.mark.parametrize(
    ("changes", "cells", "holds"),
    [
        ({}, ("inert; resumes", "3e-07", "20", "start, plan"), True),
        ({"accelerated": True}, ("inert; accelerated too; resumes", "3e-07", "20", "start, plan"), True),
        ({"accelerated": False}, ("inert; accelerated: not reached; resumes", "3e-07", "20", "start, plan"), True),
        ({"problems": {"inert": ("",)}}, ("NOT inert; resumes", "3e-07", "20", "start, plan"), False),
        ({"problems": {"gradient": ("",), "calls": ("",)}}, ("inert; resumes", "NO", "NO", "start, plan"), False),
        ({"problems": {"answered": ("",)}}, ("inert; resumes", "3e-07", "20", "NO"), False),
        (
            {"accelerated": True, "problems": {"accelerated": ("",)}},
            ("inert; accelerated: NOT the same; resumes", "3e-07", "20", "start, plan"),
            False,
        ),
        ({"cut": "stateful, not cut"}, ("inert; stateful, not cut", "3e-07", "20", "start, plan"), True),
        ({"problems": {"cut": ("",)}}, ("inert; cut: NOT the same", "3e-07", "20", "start, plan"), False),
        ({"problems": {"step": ("",)}}, ("inert; resumes; step: NOT the same", "3e-07", "20", "start, plan"), False),
        ({"repeats": False}, ("undecidable: two unpatched runs differ", "?", "?", "?"), False),
    ],
)
def test_a_verdict_says_what_was_compared(changes: dict[str, Any], cells: tuple[str, ...], holds: bool) -> None:
    verdict = ScriptVerdict(**VERDICT | changes)
    assert verdict.row() == ("synth", *cells, 2, 1, "b" * 16)
    assert verdict.holds is holds
    assert verdict.undecidable is (not verdict.repeats)


def test_the_first_difference_is_named() -> None:
    assert first_difference(SAME, SAME) == ""
    assert first_difference(SAME, RunHashes((("a",), ("c",)), SAME.files)) == "step 1"
    assert first_difference(SAME, RunHashes(SAME.steps, {"x": "2"})) == "file x"
    assert first_difference(SAME, RunHashes(SAME.steps[:1], SAME.files)) == "the number of steps (2, 1)"


def test_runs_that_left_nothing_prove_nothing() -> None:
    with pytest.raises(DirePlugError, match="did 0 steps and saved 0 files; nothing can be compared"):
        check_something_to_compare("synth", RunHashes((), {}))


def test_an_unknown_script_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DirePlugError, match=r"sre2l has no script 'cifer' \(did you mean 'cifar'\?\); it has cifar"):
        verify(SRe2L(), scripts=["cifer"], workdir=tmp_path)


# The term, twice.


def seen(
    embeddings: torch.Tensor, *, values: torch.Tensor = REAL, labels: torch.Tensor = CLASSES, key: str = "teacher"
) -> Seen:
    """Return what a network made, beside real rows of each class."""
    return Seen(key, embeddings, {label: values[labels == label] for label in labels.tolist()})


def test_the_probe_and_its_reference_agree_in_value_and_gradient() -> None:
    embeddings = torch.rand(4, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels, real = torch.tensor([2, 2, 0, 1]), RealEmbeddings(torch.rand(5, 6), torch.tensor([0, 0, 1, 2, 2]))
    probe = Probe(ProbeSettings())
    probe.weight = 3.0
    batch = Batch(embeddings, embeddings.sum(), labels, embeddings, "teacher", 0, Slot(0, 0))
    ours = probe.loss_term(cast(Synthesis, SimpleNamespace(real=lambda key: real)), batch)
    theirs = 3 * reference_term(seen(embeddings, values=real.values, labels=real.labels), labels)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(term, embeddings)[0] for term in (ours, theirs)))


@pytest.mark.parametrize(
    "change",
    [
        lambda embeddings, labels: (seen(embeddings.roll(1, 0)), labels),
        lambda embeddings, labels: (seen(embeddings), labels.roll(1)),
        lambda embeddings, labels: (seen(embeddings.roll(1, 0)), labels.roll(1)),
        lambda embeddings, labels: (seen(embeddings[:1].expand(4, -1)), labels),
        lambda embeddings, labels: (seen(embeddings, key="second"), labels),
        lambda embeddings, labels: (seen(embeddings, labels=CLASSES.roll(1)), labels),
    ],
)
def test_the_term_is_another_where_rows_labels_or_networks_are(change: Callable[[Any, Any], tuple[Any, Any]]) -> None:
    embeddings = torch.rand(4, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)
    labels = torch.tensor([0, 1, 2, 3])
    right, wrong = (
        torch.autograd.grad(reference_term(*pair), embeddings)[0]
        for pair in ((seen(embeddings), labels), change(embeddings, labels))
    )
    assert (right - wrong).norm() > 0.1 * right.norm()


# The gradient.


def write_steps(folder: Path, *steps: dict[str, torch.Tensor]) -> Path:
    """Write what an observed run keeps of its steps."""
    (folder / "gradients").mkdir(parents=True)
    for number, tensors in enumerate(steps):
        save_file(tensors, folder / "gradients" / f"{number:04d}.safetensors")
    return folder


def test_the_gradients_of_two_runs_must_differ_by_that_of_the_term(tmp_path: Path) -> None:
    upstream, term = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])
    published = write_steps(tmp_path / "published", *[{"gradient/0": upstream}] * 2)
    good = {"gradient/0": upstream + term, "term/0": term}
    probed = write_steps(tmp_path / "probed", good, {"gradient/0": upstream - term, "term/0": term})
    assert compare_gradients(published, probed, steps=1) == (0.0, [])
    error, problems = compare_gradients(published, probed, steps=None)
    assert error == pytest.approx(2)
    assert problems == ["step 1: patched minus unpatched is 2e+00 of λ·∂term away from it, at the learning rate 0"]


def test_a_tensor_that_the_term_does_not_reach_keeps_its_gradient(tmp_path: Path) -> None:
    rate = torch.tensor(2.0)
    published = write_steps(tmp_path / "published", {"gradient/0": rate})
    same = write_steps(tmp_path / "same", {"gradient/0": rate, "term/0": torch.tensor(0.0)})
    other = write_steps(tmp_path / "other", {"gradient/0": rate + 1, "term/0": torch.tensor(0.0)})
    assert compare_gradients(published, same, steps=None) == (0.0, [])
    assert compare_gradients(published, other, steps=None)[0] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("found", "scale", "error", "factor"),
    [
        ([5.0, 7.0], 1.0, 0, 1),
        ([33.0, 49.0], 8.0, 0, 8),  # scaled, and still so
        ([5.0, 7.0], 8.0, 0, 1),  # scaled, and unscaled before the step
        ([2.0, 3.0], 1.0, 1, 1),  # upstream's alone
        ([float("nan"), 7.0], 1.0, math.inf, 1),
    ],
)
def test_a_step_has_the_gradient_of_the_handed_loss_and_the_term(
    found: list[float], scale: float, error: float, factor: float
) -> None:
    leaf = torch.zeros(2, requires_grad=True)
    leaf.grad = torch.ones(2)  # from before `backward`
    expected = ExpectedGradients([leaf], [torch.tensor([1.0, 2.0])], [torch.tensor([3.0, 4.0])])
    assert expected.compare() == (None, 1.0)
    expected.begin_backward(torch.tensor(scale))
    leaf.grad = torch.tensor(found)
    seen = expected.compare()
    assert seen[0] == pytest.approx(error)
    assert seen[1] == factor


def test_runs_of_different_length_are_not_compared(tmp_path: Path) -> None:
    one, two = ({"gradient/0": torch.ones(1)} for _ in range(2))
    published, probed = write_steps(tmp_path / "a", one, two), write_steps(tmp_path / "b", one)
    assert compare_gradients(published, probed, steps=None)[1] == ["1 steps with the term, 2 without the patch"]


def test_a_run_without_a_step_shows_no_gradient() -> None:
    (problem,) = check_handed_loss([])[1]
    assert problem.startswith("no step of an optimiser that holds what the loss depends on; where")


# The calls.

PLAN = ChunkedPlan(((0, 2), (2, 3)), ipc=1)
"""Two batches, of the classes 0 and 1, and of class 2."""
WANTED = ExpectedRun(PLAN, 1, frozenset({"watch", "labels", "start", "loss", "step_done", "image_index"}))
NAMES = {(label, 0): f"{label}-0.png" for label in range(3)}


def run() -> list[Event]:
    """Return the events of a right run that was answered."""
    events: list[Event] = [{"call": "watch"}]
    for labels in ([0, 1], [2]):
        events += [
            {"call": "labels", "labels": labels, "outside": False},
            {"call": "start", "late": False, "answered": True},
            {"call": "loss", "step": 0, "labels": labels, "part": False, "shown": 0, "images": "leaf"}
            | {"outside": False, "as_started": True},
            {"call": "step", "expected": True, "error": 1e-7},
            {"call": "step_done", "step": 0, "images": "leaf", "moved": True, "unmoved": 0},
            *({"call": "image_index", "position": place, "index": 0} for place in range(len(labels))),
        ]
    return [*events, {"call": "end", "stopped": False, "outside": False}]


def test_a_run_that_is_right_has_no_problem() -> None:
    assert check_handed_loss(run()) == (1e-7, [])
    assert check_calls(run(), WANTED) == []
    assert check_answered(run(), WANTED, files=NAMES.values(), names=NAMES) == []


@pytest.mark.parametrize(
    ("number", "changes", "says"),
    [
        (0, None, "bridge.watch isn't called before the first bridge.loss"),
        (1, {"labels": [1, 0]}, "batch 0: the labels aren't the plan's"),
        (2, None, "batch 0: bridge.start is called 0 times"),
        (2, {"late": True}, "batch 0: bridge.start comes after an optimiser was made for the images"),
        (3, None, "batch 0: the optimiser's step after step -1 comes without bridge.loss"),
        (3, {"step": 1}, "batch 0: step 0: bridge.loss is told that it is step 1"),
        (3, {"images": "made"}, "batch 0: step 0: bridge.loss: `images` isn't what the optimiser holds and the loss"),
        (3, {"outside": True}, "batch 0: step 0: what is optimised has changed since bridge.step_done"),
        (3, {"labels": [1, 0]}, "batch 0: step 0: the labels aren't the plan's"),
        (3, {"embeddings": 3}, "batch 0: step 0: 3 embeddings for 2 labels"),
        (3, {"as_started": False}, "batch 0: step 0: the images aren't those that bridge.start returned"),
        (4, None, "batch 0: step 0: bridge.step_done comes before the optimiser's step"),
        (5, None, "batch 0: step 0: bridge.step_done doesn't follow bridge.loss"),
        (5, {"step": 1}, "batch 0: step 0: bridge.step_done is told that it is step 1"),
        (5, {"images": "other"}, "batch 0: step 0: bridge.step_done: `images` isn't what the optimiser holds"),
        (7, {"position": 0}, "batch 0: bridge.image_index is called for the positions [0] of 2 images"),
        (7, {"index": 1}, "batch 0: the images' numbers aren't the plan's"),
        (8, None, "bridge.labels is called 1 times in a pass of 2 batches"),
        (8, {"outside": True}, "batch 0: what is optimised has changed after the last bridge.step_done"),
        (14, {"outside": True}, "batch 1: what is optimised has changed after the last bridge.step_done"),
    ],
)
def test_a_call_that_is_missing_or_wrong_is_named(number: int, changes: Event | None, says: str) -> None:
    events = run()
    events[number : number + 1] = [] if changes is None else [events[number] | changes]
    assert any(problem.startswith(says) for problem in check_calls(events, WANTED)), check_calls(events, WANTED)


def test_a_run_stopped_inside_a_step_is_not_blamed_for_what_follows() -> None:
    events = [*run()[:12], {"call": "end", "stopped": True, "outside": True}]
    assert events[-2]["call"] == "step"
    assert check_calls(events, WANTED) == []
    assert check_answered(events, WANTED, files=["0-0.png", "1-0.png"], names=NAMES) == []


def test_images_made_of_what_is_optimised_are_right_where_so_declared() -> None:
    events = [event | ({"images": "made"} if "images" in event else {}) for event in run()]
    shared = ExpectedRun(PLAN, 1, WANTED.calls, images_are_leaf=False)
    assert check_calls(events, WANTED)
    assert check_calls(events, shared) == []


@pytest.mark.parametrize(
    ("number", "changes", "says"),
    [
        (2, {"answered": False}, "batch 0: nobody answered bridge.start, so its place isn't shown"),
        (3, {"as_started": False}, "batch 0: the images don't start where bridge.start was told"),
        (5, {"unmoved": 2}, "batch 0: 2 images stay where bridge.start put them"),
        (5, {"moved": False}, "batch 0: what is optimised doesn't move between bridge.loss and bridge.step_done"),
    ],
)
def test_an_answer_that_had_no_effect_is_named(number: int, changes: Event, says: str) -> None:
    events = run()
    events[number] |= changes
    assert says in check_answered(events, WANTED, files=NAMES.values(), names=NAMES)


def test_a_file_that_the_plan_has_and_nobody_saved_is_named() -> None:
    (problem,) = check_answered(run(), WANTED, files=["0-0.png", "2-0.png", "1-1.png"], names=NAMES)
    assert problem == "1 of 3 images aren't saved under their number, such as 1-0.png"


@pytest.mark.slow
@pytest.mark.upstream
@pytest.mark.parametrize(
    "script", ["cifar", *(pytest.param(name, marks=pytest.mark.every_script) for name in ("tiny", "imagenet"))]
)
def test_the_patch_of_sre2l_is_inert_and_the_term_acts_through_it(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIRE_PLUG_HOME", str(tmp_path / "home"))
    verdict = verified(SRe2L(), script, tmp_path)
    assert (verdict.steps, verdict.files) == (3, 10)
    assert verdict.answers == ("start", "plan", "names")
