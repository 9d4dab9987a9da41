"""Verify that a patch changes nothing by itself, and that a term acts through it as it must.

Six runs of a script, at reduced size:

- unpatched, twice, and patched: the same bits in every optimised tensor after every step, and in every file;
- unpatched, and patched with a test term, both at the learning rate 0: the gradients differ by λ · ∂term, and the
  optimisers have the same settings;
- patched with the term, the hooks answered: the images start as answered, and move as the optimiser moves them.

Where the script's slots are independent it is cut, too: a run that ended within its second slot resumes, and a batch of
the answered run is made without those before it. Both must have the bits of the whole runs.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from dire_plug import ui
from dire_plug.api.patch_file import Patch, read_patch
from dire_plug.errors import DirePlugError, nearest
from dire_plug.files import digest
from dire_plug.recipe import PROBE
from dire_plug.types import Adapter, Plan, Slot
from dire_plug.upstream.forks import Runner, open_forks
from dire_plug.upstream.job import ChildJob
from dire_plug.upstream.source.patching import REPAIR
from dire_plug.upstream.source.vendor import patch_files, require_vendored, unpatched_copy
from dire_plug.upstream.trace import TENSORS
from dire_plug.upstream.verify import checks
from dire_plug.upstream.verify.checks import Event, ExpectedRun
from dire_plug.upstream.verify.runs import (
    PASSES,
    RunHashes,
    Setup,
    run_jobs,
    set_up,
    set_up_answered,
    write_job,
)

FROZEN = {"frozen": True, "start": False}
ANSWERED = {"frozen": False, "start": True}
RESUMED, APART = "resumed", "apart"
CUTS = {RESUMED: "resumes", APART: "batches apart"}
"""Run of a script whose slots are independent → what it shows that the script can."""


@dataclass(frozen=True)
class ScriptVerdict:
    """The verdict on the patch of one script.

    Attributes:
        script: its name in the adapter.
        repeats: the two unpatched runs agree; where they don't, nothing can be said here.
        steps: optimiser steps compared; tensors: those of all steps together; files: saved files compared.
        first, last: sha256 of the tensors after the first and the last step of the unpatched run.
        agreement: the largest relative error of the term's gradient.
        calls: of bridge, seen in the two runs with the term.
        answers: what the answered run was given: start, plan, names.
        accelerated: whether a run with `--accelerate exact` was compared; None where it leaves out nothing.
        cut: what a script with independent slots was shown to do, or why it wasn't cut.
        unseen: what this verdict can't tell, and why.
        problems: check → what it found; a check without a problem isn't here.
    """

    script: str
    repeats: bool
    steps: int
    tensors: int
    files: int
    first: str
    last: str
    agreement: float
    calls: int
    answers: tuple[str, ...]
    accelerated: bool | None
    cut: str
    unseen: tuple[str, ...]
    problems: dict[str, tuple[str, ...]]

    @property
    def undecidable(self) -> bool:
        """Whether two unpatched runs differ here, so that the patch can't be judged."""
        return not self.repeats

    @property
    def holds(self) -> bool:
        """Whether the patch passes every check."""
        return self.repeats and not self.problems

    def row(self) -> tuple[str | int, ...]:
        """Return script, inertness, the gradient's error, calls, what was answered, steps, files, last hash."""
        if self.undecidable:
            cells = ["undecidable: two unpatched runs differ", "?", "?", "?"]
        else:
            inert = "NOT inert" if "inert" in self.problems else "inert"
            shown = {None: "", True: "; accelerated too", False: "; accelerated: not reached"}[self.accelerated]
            inert += "; accelerated: NOT the same" if "accelerated" in self.problems else shown
            inert += "; cut: NOT the same" if "cut" in self.problems else f"; {self.cut}"
            inert += "; step: NOT the same" if "step" in self.problems else ""
            found = {"gradient": f"{self.agreement:.0e}", "calls": str(self.calls), "answered": ", ".join(self.answers)}
            cells = [inert, *("NO" if name in self.problems else cell for name, cell in found.items())]
        return self.script, *cells, self.steps, self.files, self.last[:16]

    def to_json(self) -> dict[str, Any]:
        """Return the verdict as JSON-like data."""
        return asdict(self) | {"undecidable": self.undecidable, "holds": self.holds}


def verify(
    adapter: Adapter, *, scripts: Sequence[str] | None = None, workdir: Path, run: Runner | None = None
) -> list[ScriptVerdict]:
    """Check the patch of a method's scripts (all, or the named ones) on the CPU.

    The teachers are seeded and untrained; the trees, logs, traces and gradients stay in `workdir`.

    Args:
        run: what runs the scripts; None: forks of a process that is started for this call.

    Raises:
        DirePlugError: a script is unknown, the method isn't vendored, or a script saved nothing.
        UpstreamFailedError: a script failed.
    """
    names = list(adapter.scripts if scripts is None else scripts)
    for name in names:
        if name not in adapter.scripts:
            hint = nearest(name, adapter.scripts)
            raise DirePlugError(f"{adapter.name} has no script '{name}'{hint}; it has {', '.join(adapter.scripts)}")
    tree = require_vendored(adapter)
    pristine = unpatched_copy(adapter, tree, workdir / "pristine")
    with contextlib.nullcontext(run) if run else open_forks(pristine, workdir / "forks") as runner:
        return [
            _verify_script(adapter, name, trees=(pristine, tree), folder=workdir / name, run=runner) for name in names
        ]


def _verify_script(
    adapter: Adapter, name: str, *, trees: tuple[Path, Path], folder: Path, run: Runner
) -> ScriptVerdict:
    (pristine, tree), folder = trees, folder.absolute()
    setup = set_up(adapter, name, folder, run=run)
    length = f"{setup.case.steps} steps each" if setup.case.steps else "to its end"
    ui.say(f"verify {adapter.name} {name}: unpatched, patched, with a test term, answered; {length}")
    other, term = set_up_answered(setup, folder), {PROBE: dict[str, Any]()}
    jobs = {
        "unpatched-1": write_job(setup, folder / "unpatched-1", pristine),
        # twice: where upstream's own runs differ, the patch can't be judged
        "unpatched-2": write_job(setup, folder / "unpatched-2", pristine),
        "patched": write_job(setup, folder / "patched", tree, regularizers={}),
        # at the learning rate 0 both runs stay at the same images, so their gradients can be subtracted
        "frozen": write_job(setup, folder / "frozen", pristine, observed=FROZEN),
        "frozen-with-term": write_job(setup, folder / "frozen-with-term", tree, regularizers=term, observed=FROZEN),
        "answered": write_job(other, folder / "answered", tree, regularizers=term, observed=ANSWERED),
    }
    if adapter.freezes_after_first_step:
        jobs["accelerated"] = write_job(
            other, folder / "accelerated", tree, regularizers=term, observed=ANSWERED, accelerate=True
        )
    patch = _bridge_patch(adapter)
    independent = adapter.scripts[name].slots == "independent" and "steps" in checks.called_functions(patch)
    if independent and not _ends_in_second_slot(setup):
        interrupted = write_job(setup, folder / INTERRUPTED, tree, regularizers={})
        jobs[INTERRUPTED] = replace(interrupted, stop_after_steps=_iterations(setup) + 1)
    found = run_jobs(jobs, run=run)
    failed = ""
    if independent and (cuts := _cut_jobs(setup, other, found, folder=folder, tree=tree)):
        try:
            found |= run_jobs(cuts, run=run)
        except DirePlugError as error:
            # the script runs well when it isn't cut, so this is what the cut shows
            failed = f"a cut run failed: {error}"
    return _judge(setup, other, found, folder=folder, patch=patch, failed=failed)


# The cut.

INTERRUPTED = "interrupted"


def _iterations(setup: Setup) -> int:
    return setup.adapter.steps(setup.inputs.recipe.recover)


def _ends_in_second_slot(setup: Setup) -> bool:
    """Return whether the runs of a script end in the first step of the second slot that has steps."""
    return setup.steps == _iterations(setup) + 1


def _cut_jobs(
    setup: Setup, other: Setup, found: Mapping[str, RunHashes], *, folder: Path, tree: Path
) -> dict[str, ChildJob]:
    """Return the runs that resume, and that make one batch alone; none where the whole runs reach no second slot."""
    jobs, iterations = {}, _iterations(setup)
    if len(found["patched"].steps) > iterations:
        before = "patched" if _ends_in_second_slot(setup) else INTERRUPTED
        job = write_job(setup, folder / RESUMED, tree, regularizers={})
        shutil.copytree(folder / before / PASSES, folder / RESUMED / PASSES)
        jobs[RESUMED] = replace(job, stop_after_steps=None if setup.steps is None else setup.steps - iterations)
    batch, steps = checks.last_batch(checks.read_events(folder / "answered"))
    if _plan(other).regrouped and batch > 0:
        term = {PROBE: dict[str, Any]()}
        job = write_job(other, folder / APART, tree, regularizers=term, observed=ANSWERED)
        jobs[APART] = replace(
            job,
            synthesis={**(job.synthesis or {}), "batches": [batch]},
            stop_after_steps=None if other.steps is None else steps,
        )
    return jobs


def _check_steps_asked(setup: Setup, patch: Patch) -> list[str]:
    slots = setup.adapter.scripts[setup.case.recover["script"]].slots
    if slots != "independent" or "steps" in checks.called_functions(patch):
        return []
    return ["bridge.steps is never called, although the adapter says that the script's slots are independent"]


def _judge_cut(setup: Setup, other: Setup, found: Mapping[str, RunHashes], *, folder: Path) -> tuple[str, list[str]]:
    """Return what of a script was cut, or why it wasn't, and what differs in the cut runs."""
    slots = setup.adapter.scripts[setup.case.recover["script"]].slots
    if slots != "independent":
        return {"stateful": "stateful, not cut", "none": "one slot"}[slots], []
    if RESUMED not in found and APART not in found:
        return "not cut", []
    problems = list[str]()
    if RESUMED in found:
        whole, resumed = found["patched"], found[RESUMED]
        rest = replace(whole, steps=whole.steps[_iterations(setup) :])
        if difference := first_difference(rest, resumed, skipped=_iterations(setup)):
            problems.append(f"after a run that ended within its second slot, {difference} of the rest differs")
    if APART in found:
        whole, apart = found["answered"], found[APART]
        batch, steps = checks.last_batch(checks.read_events(folder / "answered"))
        held, names = _plan(other).slot(Slot(0, batch)), _names(other)
        files = {names[pair] for pair in zip(held.labels, held.images, strict=True)} & whole.files.keys()
        alone = [
            replace(one, steps=one.steps[-steps:], files={name: one.files.get(name, "") for name in files})
            for one in (whole, apart)
        ]
        if difference := first_difference(*alone, skipped=len(whole.steps) - steps):
            problems.append(f"batch {batch} of the answered run, made alone: {difference} differs")
    return ", ".join(shows for name, shows in CUTS.items() if name in found), problems


def _bridge_patch(adapter: Adapter) -> Patch:
    (path,) = (path for path in patch_files(adapter) if path.name != REPAIR)
    return read_patch(path)


def _judge(
    setup: Setup, other: Setup, found: Mapping[str, RunHashes], *, folder: Path, patch: Patch, failed: str
) -> ScriptVerdict:
    """Judge what the runs left; `failed` says why the cut runs didn't end well, "" where they did."""
    name, adapter = setup.case.recover["script"], setup.adapter
    published = found["unpatched-1"]
    check_something_to_compare(name, published)
    with_term, answered = (checks.read_events(folder / kind) for kind in ("frozen-with-term", "answered"))
    expected, answered_expected = (_expect(one, patch) for one in (setup, other))
    frozen_error, gradient = checks.compare_gradients(
        folder / "frozen", folder / "frozen-with-term", steps=setup.case.comparable_steps
    )
    errors = [frozen_error]
    for events in (with_term, answered):
        error, also = checks.check_handed_loss(events)
        errors.append(error)
        gradient += also
    difference = first_difference(published, found["patched"])
    problems = {
        "inert": [f"{difference} differs{tell_distance(published, found['patched'])}"] if difference else [],
        "gradient": gradient,
        "step": checks.check_update(folder / "frozen", folder / "frozen-with-term", answered),
        "calls": [
            *checks.check_calls(with_term, expected),
            *(f"answered: {one}" for one in checks.check_calls(answered, answered_expected)),
            *_check_steps_asked(setup, patch),
            *checks.check_lines([with_term, answered], patch, adapter.scripts[name].path),
        ],
        "answered": checks.check_answered(
            answered,
            answered_expected,
            files=found["answered"].files if adapter.saves_images else None,
            names=_names(other),
        ),
    }
    cut, problems["cut"] = _judge_cut(setup, other, found, folder=folder)
    problems["cut"] += [failed] if failed else []
    accelerated = None
    if "accelerated" in found:
        accelerated = _reaches_last_batch(answered, answered_expected)
        if difference := first_difference(found["answered"], found["accelerated"]):
            problems["accelerated"] = [f"{difference} differs in the answered run"]
    return ScriptVerdict(
        script=name,
        # not a problem of the patch, so it isn't among the problems
        repeats=published == found["unpatched-2"],
        steps=len(published.steps),
        tensors=sum(map(len, published.steps)),
        files=len(published.files),
        first=digest(published.steps[0]),
        last=digest(published.steps[-1]),
        agreement=max(errors),
        calls=sum("file" in event for events in (with_term, answered) for event in events),
        answers=_answers(setup, other),
        accelerated=accelerated,
        cut=cut,
        unseen=_find_unseen(setup, folder, [*with_term, *answered]),
        problems={check: tuple(dict.fromkeys(texts)) for check, texts in problems.items() if texts},
    )


def _find_unseen(setup: Setup, folder: Path, events: Sequence[Event]) -> tuple[str, ...]:
    """Return what the runs of a script can't show."""
    script = folder.parent / "pristine" / setup.adapter.scripts[setup.case.recover["script"]].path
    unseen = {
        "whether bridge gets the script's GradScaler, idle on a CPU": b"GradScaler" in script.read_bytes(),
        "which of the networks is which, since their last layers aren't the teachers'": any(
            not event.get("told_apart", True) for event in events
        ),
        "the optimiser's update, since it isn't one of torch.optim": not any(one["call"] == "update" for one in events),
    }
    return tuple(text for text, holds in unseen.items() if holds)


def check_something_to_compare(script: str, published: RunHashes) -> None:
    """Raise where an unpatched run left nothing to compare.

    Raises:
        DirePlugError: it did no step or saved no file.
    """
    if not published.steps or not published.files:
        raise DirePlugError(
            f"{script}: the unpatched script did {len(published.steps)} steps and saved {len(published.files)} files; "
            f"nothing can be compared{'' if published.steps else f'; {checks.BY_HAND}'}"
        )


def _expect(setup: Setup, patch: Patch) -> ExpectedRun:
    recipe = setup.inputs.recipe
    return ExpectedRun(
        plan=_plan(setup),
        steps=setup.adapter.steps(recipe.recover),
        calls=checks.called_functions(patch),
        images_are_leaf=setup.case.images_are_leaf,
    )


def _plan(setup: Setup) -> Plan:
    recipe = setup.inputs.recipe
    return setup.adapter.plan(recipe.recover, classes=setup.inputs.classes, ipc=recipe.ipc)


def _names(setup: Setup) -> dict[tuple[int, int], str]:
    """Return (label, image) → file, of all images of the plan."""
    adapter, recipe = setup.adapter, setup.inputs.recipe
    suffix = adapter.scripts[recipe.recover.script].suffix
    plan = _plan(setup)
    paths = {
        (label, image): Path(adapter.image_path(label, image))
        for label in range(setup.inputs.classes)
        for image in range(plan.ipc)
    }
    return {pair: (path if suffix is None else path.with_suffix(suffix)).as_posix() for pair, path in paths.items()}


def _answers(setup: Setup, other: Setup) -> tuple[str, ...]:
    """Return what in the answered run isn't upstream's own."""
    regrouped = other.inputs.recipe.recover.plan != setup.inputs.recipe.recover.plan
    named = regrouped and setup.adapter.saves_images
    return ("start", *(["plan"] if regrouped else []), *(["names"] if named else []))


def _reaches_last_batch(events: Sequence[Event], wanted: ExpectedRun) -> bool:
    """Return whether the run went on after the first step of a pass's last batch: there alone networks are frozen."""
    begun = [place for place, event in enumerate(events) if event["call"] == "labels"]
    last = wanted.plan.slots_per_pass - 1
    return len(begun) > last and [event["call"] for event in events[begun[last] :]].count("step") > 1


def first_difference(one: RunHashes, other: RunHashes, *, skipped: int = 0) -> str:
    """Return the first step, else the first file, in which two runs differ; an empty string where none does.

    Args:
        skipped: steps of `one` that were left out at its beginning.
    """
    if len(one.steps) != len(other.steps):
        return f"the number of steps ({len(one.steps)}, {len(other.steps)})"
    for number, (left, right) in enumerate(zip(one.steps, other.steps, strict=True)):
        if left != right:
            return f"step {number}"
    names = sorted(one.files.keys() | other.files.keys())
    return next((f"file {name}" for name in names if one.files.get(name) != other.files.get(name)), "")


def tell_distance(one: RunHashes, other: RunHashes) -> str:
    """Return how far apart two runs are in the first step in which they differ, and what to try; "" where in none."""
    differing = (at for at, pair in enumerate(zip(one.steps, other.steps, strict=False)) if len(set(pair)) > 1)
    if (step := next(differing, None)) is None:
        return ""
    left, right = (load_file(run.folder / TENSORS / f"{step:04d}.safetensors") for run in (one, other))
    pairs = [(left[key].double(), right[key].double()) for key in left if key in right]
    if not pairs or any(a.shape != b.shape for a, b in pairs):
        return ": what is optimised has other shapes"
    largest = max(float((a - b).abs().max()) for a, b in pairs)
    size = max(float(a.abs().max()) for a, _ in pairs)
    losses = one.losses[step], other.losses[step]
    early = step == 0 and losses[0] != losses[1]
    advice = (
        "the losses differ before the first step, so the images or the random numbers do: look for an inserted line "
        "that draws (python -m random, numpy, torch), copies what the script changes in place, or answers by itself; "
        "or the adapter answers: with start real its initial_images does, unless it returns None where the plan is the "
        "script's own"
        if early
        else "an inserted line changes the loss, the images or a network in this step"
    )
    return f" by up to {largest:.1e} (values up to {size:.1e}; losses {losses[0]} and {losses[1]}); {advice}"
