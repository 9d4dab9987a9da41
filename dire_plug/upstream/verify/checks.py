"""Check what `observe.py` recorded of a run: the gradient, the calls, and what an answered run did.

Each check returns the problems that it finds as text; none where all is as it must be.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from dire_plug.api.patch_file import Patch
from dire_plug.types import Plan, Slot
from dire_plug.upstream.verify.observe import CALLS, GRADIENT, GRADIENTS, GROUPS, TERM

TOLERANCE = 1e-4
"""Of the gradient, in units of λ · ∂term. Agreement of float32 is some 10⁻⁶; wrong terms are off by 10⁻¹ and more."""
SHOWN = 3
"""Problems of one kind, at most: the same one tends to come back in every step."""
BY_HAND = "where the script updates it by its own rule, name its variables in the adapter's Script.optimized"
_CALL = re.compile(r"\bbridge\.(\w+)\(")
LOSS, TERM_ALONE = "loss", "term"
LOSSES = (LOSS, TERM_ALONE)
"""The functions of bridge with which a step begins: its loss, or the term where the loss has no name."""

Event = dict[str, Any]


@dataclass(frozen=True)
class ExpectedRun:
    """The expected behaviour of one run of a script.

    Attributes:
        plan: of its images.
        steps: iterations of a slot.
        calls: the functions of bridge that the patch calls.
        images_are_leaf: whether the images that the script hands over are what its optimiser holds.
    """

    plan: Plan
    steps: int
    calls: frozenset[str]
    images_are_leaf: bool = True

    @property
    def loss(self) -> str:
        """The function with which a step begins."""
        return TERM_ALONE if TERM_ALONE in self.calls and LOSS not in self.calls else LOSS


def read_events(folder: Path) -> list[Event]:
    """Return the events of an observed run, in order."""
    return [json.loads(line) for line in (folder / CALLS).read_text().splitlines()]


# The gradient.


def compare_gradients(published: Path, probed: Path, *, steps: int | None) -> tuple[float, list[str]]:
    """Compare the gradients of two runs at the learning rate 0: theirs must differ by λ · ∂term.

    Args:
        published, probed: folders of the observed runs, unpatched and with the term.
        steps: how many steps, from the first, are comparable; None: all.

    Returns:
        the largest error of a tensor, in units of λ · ∂term, and the problems.
    """
    ours, theirs = (sorted((folder / GRADIENTS).glob("*")) for folder in (probed, published))
    if len(ours) != len(theirs):
        return 0.0, [f"{len(ours)} steps with the term, {len(theirs)} without the patch"]
    worst, problems = 0.0, []
    for step, (one, other) in enumerate(zip(ours[:steps], theirs[:steps], strict=True)):
        error = _gradient_error(load_file(one), load_file(other))
        worst = max(worst, error)
        if not error <= TOLERANCE:
            problems.append(
                f"step {step}: patched minus unpatched is {error:.0e} of λ·∂term away from it, at the learning rate 0"
            )
    return worst, problems[:SHOWN]


# The step.


def check_update(published: Path, probed: Path, events: Iterable[Event]) -> list[str]:
    """Check that optimisers step with the term on as they do without.

    Args:
        published, probed: as `compare_gradients`; their optimisers must have the same settings in each step.
        events: of a run with the term at the script's own learning rate, in which each update must be the one that the
            optimiser makes of the gradient that was recorded.
    """
    ours, theirs = (map(_read_groups, sorted((folder / GRADIENTS).glob("*"))) for folder in (probed, published))
    problems = []
    for step, pair in enumerate(zip(ours, theirs, strict=False)):  # numbers of steps are compared with the gradients
        for one, other in zip(*pair, strict=False):
            changed = [f"{name} {other.get(name)} → {value}" for name, value in one.items() if value != other.get(name)]
            problems += [f"step {step}: with the term the optimiser has other settings: {', '.join(changed)}"] * bool(
                changed
            )
    updates = [event["error"] for event in events if event["call"] == "update"]
    problems += [
        f"step {step}: the update is {error:.0e} of its size away from the optimiser's own, of the recorded gradient"
        for step, error in enumerate(updates)
        if not error <= TOLERANCE
    ]
    return problems[:SHOWN]


def _read_groups(file: Path) -> list[dict[str, Any]]:
    with safe_open(file, framework="pt") as content:
        groups: list[dict[str, Any]] = json.loads(content.metadata()[GROUPS])
    return groups


def _gradient_error(probed: Mapping[str, Tensor], published: Mapping[str, Tensor]) -> float:
    names = {key.removeprefix(GRADIENT) for one in (probed, published) for key in one if key.startswith(GRADIENT)}
    terms = {key.removeprefix(TERM) for key in probed if key.startswith(TERM)}
    errors = [0.0]
    for name in sorted(names | terms):
        with_term, without, term = (
            tensors.get(f"{kind}{name}")
            for tensors, kind in ((probed, GRADIENT), (published, GRADIENT), (probed, TERM))
        )
        values = [one.double() for one in (with_term, without, term) if one is not None]
        if len({one.shape for one in values}) != 1:
            return math.inf
        zero = values[0].new_zeros(values[0].shape)
        left, right, wanted = (zero if one is None else one.double() for one in (with_term, without, term))
        # the term's gradient, or upstream's where that is larger: its rounding counts in the difference
        unit = max(float(one.norm()) for one in (wanted, right)) or 1.0
        error = float((left - right - wanted).norm()) / unit
        errors.append(error if math.isfinite(error) else math.inf)
    return max(errors)


def check_handed_loss(events: Iterable[Event]) -> tuple[float, list[str]]:
    """Check, within one run, that each step's gradient is that of the loss handed to bridge, plus λ · ∂term.

    Returns:
        the largest error, in units of λ · ∂term or of the script's own gradient, whichever is larger, and the problems.
    """
    worst, problems, number, call = 0.0, list[str](), 0, LOSS
    for event in events:
        call = event["call"] if event["call"] in LOSSES else call
        if event["call"] != "step":
            continue
        where, number = f"step {number}: ", number + 1
        if not event["expected"]:
            problems.append(f"{where}before the optimiser's step, {_NOTHING[call]}, or no embeddings")
        elif event["error"] is None:
            problems.append(f"{where}{_NO_BACKWARD[call]}")
        else:
            worst = max(worst, event["error"])
            if not event["error"] <= TOLERANCE:
                problems.append(
                    f"{where}the gradient isn't that of {_HANDED[call]} plus λ·∂term: it is "
                    f"{event['error']:.0e} of λ·∂term away"
                )
    if not number:
        problems.append(f"no step of an optimiser that holds what the loss depends on; {BY_HAND}")
    return worst, problems[:SHOWN]


_NOTHING = {LOSS: "bridge.loss had no loss with its graph", TERM_ALONE: "bridge.term had no images that are optimised"}
_NO_BACKWARD = {
    LOSS: "`backward` didn't go through the loss that bridge.loss returned",
    TERM_ALONE: "no gradient reached the images after bridge.term",
}
_HANDED = {LOSS: "the loss handed to bridge.loss", TERM_ALONE: "the script's loss"}


# The calls.


def check_calls(events: Sequence[Event], wanted: ExpectedRun) -> list[str]:
    """Check that each function of bridge is called as often, and where, the plan says."""
    found = Counter(event["call"] for event in events)
    problems = [
        f"bridge.{name} is never called" for name in ("labels", "start", wanted.loss, "step_done") if not found[name]
    ]
    if "watch" in wanted.calls and not _comes_before(events, "watch", wanted.loss):
        problems.append(f"bridge.watch isn't called before the first bridge.{wanted.loss}")
    if foreign := next((event for event in events if event.get("foreign")), None):
        first, *others = foreign["foreign"]
        problems.append(
            f"bridge.watch: {1 + len(others)} of {foreign['parameters']} parameters of the network aren't the "
            f"teacher's, the first {first}: the script may have loaded another file, or a part of this one "
            "(strict=False), whose names write_inputs must then change"
        )
    if "order" in wanted.calls and (found["order"] != 1 or not _comes_before(events, "order", "labels")):
        problems.append(f"bridge.order must be called once, before the first slot; it is called {found['order']} times")
    # a run that is stopped may end between the two calls
    if "keep" in wanted.calls and found["keep"] not in (found["step_done"], found["step_done"] - 1):
        problems.append(f"bridge.keep is called {found['keep']} times in {found['step_done']} steps")
    slots = list(_by_slot(events))
    problems += [f"{name} is called before bridge.labels began a slot" for name in _before_the_first_slot(events)]
    stopped = bool(events) and events[-1].get("stopped", False)
    if len(slots) > wanted.plan.slots_per_pass or (not stopped and len(slots) < wanted.plan.slots_per_pass):
        problems.append(f"bridge.labels is called {len(slots)} times in a pass of {wanted.plan.slots_per_pass} batches")
        slots = slots[: wanted.plan.slots_per_pass]
    for number, slot in enumerate(slots):
        finished = not stopped or number + 1 < len(slots)
        problems += [f"batch {number}: {one}" for one in _check_slot(slot, number, wanted, finished=finished)][:SHOWN]
    return problems


def check_lines(runs: Iterable[Sequence[Event]], patch: Patch, script: str) -> list[str]:
    """Check that each line that calls bridge in the script's own file was reached in one of the runs."""
    reached = {event["line"] for events in runs for event in events if event.get("file") == script}
    return [
        f"{script}:{line}: bridge.{name} isn't reached"
        for file in patch.files
        if file.path == script
        for hunk in file.hunks
        for line, text in enumerate(hunk.inserted, start=hunk.new)
        for name in _CALL.findall(text)
        if line not in reached
    ]


def called_functions(patch: Patch) -> frozenset[str]:
    """Return the functions of bridge that a patch calls."""
    lines = (line for file in patch.files for hunk in file.hunks for line in hunk.inserted)
    return frozenset(name for line in lines for name in _CALL.findall(line))


def _comes_before(events: Sequence[Event], first: str, second: str) -> bool:
    names = [event["call"] for event in events]
    return first in names and (second not in names or names.index(first) < names.index(second))


def _by_slot(events: Iterable[Event]) -> Iterator[list[Event]]:
    """Split events into those of each slot; the call that begins the next one is the last of each."""
    slot: list[Event] | None = None
    for event in events:
        if slot is not None:
            slot.append(event)
        if event["call"] == "labels":
            if slot is not None:
                yield slot
            slot = [event]
    if slot is not None:
        yield slot


def _before_the_first_slot(events: Iterable[Event]) -> list[str]:
    found = []
    for event in events:
        if event["call"] == "labels":
            break
        if event["call"] in ("start", *LOSSES, "step_done", "image_index"):
            found.append(f"bridge.{event['call']}")
    return list(dict.fromkeys(found))


def _check_slot(found: Sequence[Event], number: int, wanted: ExpectedRun, *, finished: bool) -> Iterator[str]:
    planned = wanted.plan.slot(Slot(0, number))
    begun, *events = found
    if begun["labels"] != list(planned.labels):
        yield "the labels aren't the plan's"
    starts = [event for event in events if event["call"] == "start"]
    if len(starts) != 1:
        yield f"bridge.start is called {len(starts)} times"
    elif starts[0]["late"]:
        yield "bridge.start comes after an optimiser was made for the images"
    if "steps" in wanted.calls:
        yield from _check_asked(events)
    yield from _check_steps(events, planned.labels, wanted, finished=finished)
    if finished and events[-1]["outside"]:
        yield "what is optimised has changed after the last bridge.step_done"
    indices = {event["position"]: event["index"] for event in events if event["call"] == "image_index"}
    if "image_index" in wanted.calls and (indices or finished):
        if list(indices) != list(range(len(planned.images))):
            yield f"bridge.image_index is called for the positions {list(indices)} of {len(planned.images)} images"
        elif list(indices.values()) != list(planned.images):
            yield "the images' numbers aren't the plan's"


def _check_asked(events: Sequence[Event]) -> Iterator[str]:
    """Check that the number of iterations is asked for once, after the start images and before the first step."""
    calls = [event["call"] for event in events if event["call"] in ("start", "steps", *LOSSES)]
    if calls.count("steps") != 1:
        yield f"bridge.steps is called {calls.count('steps')} times"
    elif any(name in calls and calls.index("steps") > calls.index(name) for name in LOSSES):
        yield "bridge.steps comes after the first step"


def _check_steps(
    events: Iterable[Event], labels: Sequence[int], wanted: ExpectedRun, *, finished: bool
) -> Iterator[str]:
    """Follow loss, the optimiser's step, step_done; loss, … With `bridge.term` that stands for loss."""
    losses, awaited, in_use, name = 0, "loss", 0, wanted.loss
    for event in events:
        match event["call"]:
            case "in_use":
                in_use += 1
            case "loss" | "term":
                if awaited != "loss":
                    yield f"step {losses - 1}: bridge.{name} is called again before {awaited}"
                yield from _check_loss(event, losses, labels, wanted)
                if "in_use" in wanted.calls and in_use != 1:
                    yield f"step {losses}: bridge.in_use is called {in_use} times"
                losses, awaited, in_use = losses + 1, "the optimiser's step", 0
            case "step":
                if awaited == "loss":
                    yield f"the optimiser's step after step {losses - 1} comes without bridge.{name}"
                awaited = "bridge.step_done" if losses else "loss"
            case "step_done":
                if awaited != "bridge.step_done":
                    yield f"step {losses - 1}: bridge.step_done comes before {awaited}"
                if event["step"] != losses - 1:
                    yield f"step {losses - 1}: bridge.step_done is told that it is step {event['step']}"
                if why := _find_wrong_images(event, wanted):
                    yield f"step {losses - 1}: bridge.step_done: {why}"
                awaited = "loss"
    if finished and losses not in (0, wanted.steps):
        yield f"bridge.{name} is called {losses} times in {wanted.steps} iterations"
    if awaited != "loss" and (finished or awaited != "bridge.step_done"):  # a run is stopped inside a step
        yield f"step {losses - 1}: {awaited} doesn't follow bridge.{name}"


def _check_loss(event: Event, number: int, labels: Sequence[int], wanted: ExpectedRun) -> Iterator[str]:
    where = f"step {number}: "
    if event["step"] != number:
        yield f"{where}bridge.{wanted.loss} is told that it is step {event['step']}"
    if why := _find_wrong_images(event, wanted):
        yield f"{where}bridge.{wanted.loss}: {why}"
    if event["outside"]:
        yield f"{where}what is optimised has changed since bridge.step_done"
    if event.get("as_started") is False:
        yield f"{where}the images aren't those that bridge.start returned"
    if not event["part"] and event["labels"] != list(labels):
        yield f"{where}the labels aren't the plan's"
    if "embeddings" in event and event["embeddings"] is not None:
        yield f"{where}{event['embeddings']} embeddings for {len(event['labels'])} labels"
    if "embedded" in wanted.calls and event["shown"] != len(event["labels"]):
        yield f"{where}bridge.embedded has shown {event['shown']} of {len(event['labels'])} images"


def _find_wrong_images(event: Event, wanted: ExpectedRun) -> str:
    if event["images"] == "leaf" or (event["images"] == "made" and not wanted.images_are_leaf):
        return ""
    return "`images` isn't what the optimiser holds and the loss depends on"


def last_batch(events: Iterable[Event]) -> tuple[int, int]:
    """Return the last batch of a pass that did a step, from 0, and the number of its steps; (-1, 0) where none did."""
    steps = [sum(event["call"] == "step" for event in slot) for slot in _by_slot(events)]
    return next(((batch, count) for batch, count in reversed(list(enumerate(steps))) if count), (-1, 0))


# The answered run.


def check_answered(
    events: Sequence[Event], wanted: ExpectedRun, *, files: Iterable[str] | None, names: Mapping[tuple[int, int], str]
) -> list[str]:
    """Check that an answered run used the answers: start images, batches, names of files.

    Args:
        files: those that the script saved; None where it saves no images.
        names: (label, image) → the file of an image that the plan has.
    """
    problems, expected = [], []
    slots = list(_by_slot(events))
    stopped = bool(events) and events[-1].get("stopped", False)
    for number, slot in enumerate(slots[: wanted.plan.slots_per_pass]):
        if any(event["call"] == "start" and not event["answered"] for event in slot):
            problems.append(f"batch {number}: nobody answered bridge.start, so its place isn't shown")
        if any(event.get("as_started") is False for event in slot):
            problems.append(f"batch {number}: the images don't start where bridge.start was told")
        done = [event for event in slot if event["call"] == "step_done"]
        finished = not stopped or number + 1 < len(slots)
        if finished and done and done[-1].get("unmoved", 1):
            problems.append(f"batch {number}: {_unmoved(done[-1])} where bridge.start put them")
        if finished and any(event["call"] in LOSSES for event in slot) and not any(one["moved"] for one in done):
            between = f"between bridge.{wanted.loss} and bridge.step_done"
            problems.append(f"batch {number}: what is optimised doesn't move {between}")
        if finished:
            planned = wanted.plan.slot(Slot(0, number))
            expected += [names[pair] for pair in zip(planned.labels, planned.images, strict=True)]
    if files is not None and (missing := sorted(set(expected) - set(files))):
        problems.append(
            f"{len(missing)} of {len(expected)} images aren't saved under their number, such as {missing[0]}"
        )
    if not expected:
        problems.append("no batch is finished")
    return problems


def _unmoved(event: Event) -> str:
    return f"{event['unmoved']} images stay" if "unmoved" in event else "the images aren't of one shape with those"
