"""Shows that a patch changes nothing by itself: the script unpatched twice, patched, and patched with a test term."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dire_plug import ui
from dire_plug.errors import DirePlugError, nearest
from dire_plug.files import digest
from dire_plug.types import Adapter
from dire_plug.upstream.trial import Evidence, Kind, run_trials, set_up
from dire_plug.upstream.vendor import require_vendored, unpatched_copy

PROBE = "verify-probe"


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
        accelerated: the same of a patched run with `--accelerate exact`; None where it leaves out nothing.
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
    accelerated: str | None = None

    @property
    def undecidable(self) -> bool:
        """Whether two unpatched runs differ here, so that the patch can't be judged."""
        return not self.repeats

    @property
    def holds(self) -> bool:
        """Whether the patch changes nothing by itself, and a term reaches the loss."""
        return self.repeats and self.inert and self.term_acts and not self.accelerated

    def row(self) -> tuple[str | int, ...]:
        """Return script, verdict, steps, tensors, files, hash after the last step, effect of the test term."""
        verdict = "inert" if self.inert else f"NOT inert: {self.difference} differs"
        if self.accelerated is not None:
            verdict += f"; accelerated: {self.accelerated} differs" if self.accelerated else "; accelerated too"
        if self.undecidable:
            verdict = "undecidable: two unpatched runs differ"
        term = "differs" if self.term_acts else "NO effect"
        return self.script, verdict, self.steps, self.tensors, self.files, self.last[:16], term

    def to_json(self) -> dict[str, Any]:
        """Return the verdict as JSON-like data."""
        return asdict(self) | {"undecidable": self.undecidable, "holds": self.holds}


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
    trial = set_up(adapter, name, folder.absolute())
    length = f"{trial.case.steps} steps each" if trial.case.steps else "to its end"
    ui.say(f"verify {adapter.name} {name}: unpatched twice, patched, with a test term; {length}")
    kinds = {
        "unpatched-1": Kind(pristine),
        "unpatched-2": Kind(pristine),
        "patched": Kind(tree, {}),
        "with-term": Kind(tree, {PROBE: {}}),
    }
    if adapter.freezes_after_first_step:
        kinds["accelerated"] = Kind(tree, {}, accelerate=True)
    found = run_trials(trial, folder, kinds)
    published, again, patched, probed = (found[kind] for kind in list(kinds)[:4])
    verdict = judge(name, published=published, again=again, patched=patched, probed=probed)
    if "accelerated" not in found:
        return verdict
    return replace(verdict, accelerated=first_difference(published, found["accelerated"]))


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
