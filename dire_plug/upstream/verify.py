"""Shows that a patch changes nothing by itself: the script unpatched twice, patched, and patched with a test term."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from dire_plug import ui
from dire_plug.errors import DirePlugError, nearest
from dire_plug.files import digest, digest_file, make_folder
from dire_plug.recipe.model import RecoverSection
from dire_plug.types import Adapter, Script
from dire_plug.upstream.job import ChildJob
from dire_plug.upstream.runner import run_child
from dire_plug.upstream.vendor import require_vendored, unpatched_copy

SEED = 0
PROBE = "verify-probe"
ARCHITECTURE = "resnet-18"
FLAGS = {"batch-size": 10, "iteration": 2}
STEPS = 3
"""One whole batch of two iterations, so that it is saved, and the first step of the next, in which its slot is over."""


@dataclass(frozen=True)
class ScriptVerdict:
    """What the four runs of one script showed.

    Attributes:
        script: its name in the adapter.
        repeats: the two unpatched runs agree; where they don't, nothing can be said here.
        inert: the patched run agrees with them in every optimised tensor after every step, and in every saved file.
        term_acts: the run with the test term differs from them.
        steps: optimiser steps compared; tensors: those of all steps together; files: saved files compared.
        first, last: sha256 of the tensors after the first and the last step of the unpatched run.
        difference: the first place where the patched run differs, or an empty string.
    """

    script: str
    repeats: bool
    inert: bool
    term_acts: bool
    steps: int
    tensors: int
    files: int
    first: str
    last: str
    difference: str

    @property
    def undecidable(self) -> bool:
        """Whether two unpatched runs differ here, so that the patch can't be judged."""
        return not self.repeats

    @property
    def holds(self) -> bool:
        """Whether the patch changes nothing by itself, and a term reaches the loss."""
        return self.repeats and self.inert and self.term_acts

    def row(self) -> tuple[str | int, ...]:
        """Return script, verdict, steps, tensors, files, hash after the last step, effect of the test term."""
        verdict = "inert" if self.inert else f"NOT inert: {self.difference} differs"
        if self.undecidable:
            verdict = "undecidable: two unpatched runs differ"
        term = "differs" if self.term_acts else "NO effect"
        return self.script, verdict, self.steps, self.tensors, self.files, self.last[:16], term

    def to_json(self) -> dict[str, Any]:
        """Return the verdict as JSON-like data."""
        return asdict(self) | {"undecidable": self.undecidable, "holds": self.holds}


@dataclass(frozen=True)
class Evidence:
    """What one run left: the hashes of the optimised tensors, step by step, and those of the saved files."""

    steps: tuple[tuple[str, ...], ...]
    files: dict[str, str]


def verify(adapter: Adapter, *, scripts: Sequence[str] | None = None, workdir: Path) -> list[ScriptVerdict]:
    """Compare patched and unpatched runs of a method's scripts (all, or the named ones) on the CPU.

    The teachers are seeded and untrained; the trees, logs and traces stay in `workdir`.

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
    return [_verify_script(adapter, name, trees=(pristine, tree), folder=workdir / name) for name in names]


def _verify_script(adapter: Adapter, name: str, *, trees: tuple[Path, Path], folder: Path) -> ScriptVerdict:
    pristine, tree = trees
    teacher = folder / "teacher.pt"
    _write_teacher(adapter.scripts[name], teacher)
    run = partial(_run, adapter, name, teacher=teacher)
    ui.say(f"verify {adapter.name} {name}: unpatched twice, patched, with a test term; {STEPS} steps each")
    published = run(folder / "unpatched-1", tree=pristine)
    again = run(folder / "unpatched-2", tree=pristine)
    patched = run(folder / "patched", tree=tree, regularizers={})
    probed = run(folder / "with-term", tree=tree, regularizers={PROBE: {}})
    return judge(name, published=published, again=again, patched=patched, probed=probed)


def judge(script: str, *, published: Evidence, again: Evidence, patched: Evidence, probed: Evidence) -> ScriptVerdict:
    """Draw the verdict from what four runs left.

    Raises:
        DirePlugError: the unpatched run did no step or saved no file, so that nothing could be compared.
    """
    if not published.steps or not published.files:
        raise DirePlugError(
            f"{script}: the unpatched script did {len(published.steps)} steps and saved {len(published.files)} files; "
            "nothing can be compared"
        )
    return ScriptVerdict(
        script=script,
        repeats=published == again,
        inert=published == patched,
        term_acts=published.steps != probed.steps,
        steps=len(published.steps),
        tensors=sum(map(len, published.steps)),
        files=len(published.files),
        first=digest(published.steps[0]),
        last=digest(published.steps[-1]),
        difference=first_difference(published, patched),
    )


def first_difference(one: Evidence, other: Evidence) -> str:
    """Name the first step, else the first file, in which two runs differ; an empty string where none does."""
    if len(one.steps) != len(other.steps):
        return f"the number of steps ({len(one.steps)}, {len(other.steps)})"
    for number, (left, right) in enumerate(zip(one.steps, other.steps, strict=True)):
        if left != right:
            return f"step {number}"
    names = sorted(one.files.keys() | other.files.keys())
    return next((f"file {name}" for name in names if one.files.get(name) != other.files.get(name)), "")


def _run(
    adapter: Adapter,
    name: str,
    folder: Path,
    *,
    tree: Path,
    teacher: Path,
    regularizers: dict[str, dict[str, Any]] | None = None,
) -> Evidence:
    """Run one script for a few steps; patched where `regularizers` is given, even empty."""
    recover = RecoverSection(script=name, flags=FLAGS)
    images = folder / "images"
    make_folder(images)
    call = adapter.invocation(recover, teacher=teacher.absolute(), images=images.absolute(), architecture=ARCHITECTURE)
    spec = None if regularizers is None else _synthesis(adapter, name, recover, folder, regularizers)
    job = ChildJob(
        tree=tree,
        script=call.script,
        arguments=call.arguments,
        folder=folder,
        pass_arguments={0: tuple(adapter.pass_arguments(0))},
        shims=call.shims,
        synthesis=spec,
        seed=SEED,
        trace=folder / "trace.jsonl",
        stop_after_steps=STEPS,
    )
    run_child(job, log=folder / "log.txt", on_event=lambda event: None)
    return read_evidence(folder / "trace.jsonl", images)


def _synthesis(
    adapter: Adapter, name: str, recover: RecoverSection, folder: Path, regularizers: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    from dire_plug.synthesis import SynthesisSpec

    return SynthesisSpec(
        adapter=adapter.name,
        recover=recover.model_dump(mode="json"),
        regularizers=regularizers,
        classes=adapter.scripts[name].classes,
        ipc=1,
        steps=adapter.steps(recover),
        seed=SEED,
        device="cpu",
        start={"kind": "noise", "shape": None, "file": None},
        real={},
        passes=str(folder.absolute() / "passes"),
    ).to_json()


def read_evidence(trace: Path, saved: Path) -> Evidence:
    """Read a trace and hash the files below the folder `saved`."""
    steps = tuple(tuple(json.loads(line)["tensors"]) for line in trace.read_text().splitlines())
    files = {path.relative_to(saved).as_posix(): digest_file(path) for path in saved.rglob("*") if path.is_file()}
    return Evidence(steps, files)


def _write_teacher(script: Script, path: Path) -> None:
    """Write a seeded, untrained ResNet-18 in the layout that the script reads."""
    from dire_plug.models import build
    from dire_plug.models.checkpoint import write_for_upstream
    from dire_plug.protocols.training import initialised

    model = initialised(lambda: build(ARCHITECTURE, outputs=script.classes, stem=script.stem), SEED)
    write_for_upstream(model, path, script.checkpoint)
