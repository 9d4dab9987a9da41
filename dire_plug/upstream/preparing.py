"""What upstream's own code makes before the loop, cached: ranked selections, statistics, expert trajectories."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dire_plug import ui
from dire_plug.files import make_folder
from dire_plug.runs.cache import cached
from dire_plug.types import Adapter, LoopInputs, Materials, Preparation
from dire_plug.upstream.job import ChildJob
from dire_plug.upstream.runner import run_child
from dire_plug.upstream.vendor import require_vendored, unpatched_copy

MADE = "made"
SEED = 0
"""Fixed, as the teachers' seeds are: runs of all seeds and arms share what is prepared."""


@dataclass(frozen=True)
class Workplace:
    """Where preparations run.

    Attributes:
        cache: the folder of results that runs share.
        key: what decides the outcome besides the preparation's own key: the dataset.
        device, threads: of the child.
        teachers: what decides it where it depends on the teachers.
    """

    cache: Path
    key: Mapping[str, Any]
    device: str = "cpu"
    threads: int = 1
    teachers: Mapping[str, str] = field(default_factory=dict)


def prepare_inputs(
    adapter: Adapter, inputs: LoopInputs, materials: Callable[[], Materials], place: Workplace
) -> LoopInputs:
    """Run, or find in the cache, all preparations of a method; return the inputs with their folders.

    Args:
        materials: loads what is laid out for upstream's code; called where some of it runs.

    Raises:
        UpstreamFailedError: upstream's code failed; what was prepared before is kept.
        DirePlugError: it isn't vendored.
    """
    for preparation in adapter.preparations(inputs):
        folder = _prepare(adapter, preparation, inputs, materials, place) / MADE
        inputs = replace(inputs, prepared={**inputs.prepared, preparation.name: folder})
    return inputs


def _prepare(
    adapter: Adapter,
    preparation: Preparation,
    inputs: LoopInputs,
    materials: Callable[[], Materials],
    place: Workplace,
) -> Path:
    def make(folder: Path) -> None:
        folder = folder.absolute()
        inner = replace(inputs, folder=folder / "inputs", images=folder / MADE)
        for path in (inner.folder, inner.images):
            shutil.rmtree(path, ignore_errors=True)
            make_folder(path)
        wanted = next(one for one in adapter.preparations(inner) if one.name == preparation.name)
        ui.say("; ".join(filter(None, [f"prepare: {wanted.name} by {adapter.title}'s own code", wanted.estimate])))
        adapter.lay_out(inner, materials())
        child = ChildJob(
            tree=unpatched_copy(adapter, require_vendored(adapter), folder / "tree"),
            script=wanted.invocation.script,
            arguments=wanted.invocation.arguments,
            folder=folder,
            shims=wanted.invocation.shims,
            seed=SEED,
            device=place.device,
            threads=place.threads,
            stop_after_steps=wanted.stop_after_steps,
        )
        run_child(child, log=folder / "log.txt", on_event=lambda event: None)
        for path in (inner.folder, folder / "tree"):
            shutil.rmtree(path)

    key = {
        **place.key,
        **(place.teachers if preparation.asks_teachers else {}),
        "commit": adapter.upstream.commit,
        "script": preparation.invocation.script,
        "key": dict(preparation.key),
    }
    return cached(place.cache, kind=f"{adapter.name}-{preparation.name}", key=key, make=make)
