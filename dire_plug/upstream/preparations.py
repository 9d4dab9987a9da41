"""Run upstream's own, unpatched code before the loop: ranked selections, statistics, expert trajectories."""

import shutil
from dataclasses import replace
from pathlib import Path

from dire_plug import ui
from dire_plug.files import make_folder
from dire_plug.types import Adapter, LoopInputs, ScriptInputs
from dire_plug.upstream.forks import Runner
from dire_plug.upstream.job import ChildJob
from dire_plug.upstream.runner import run_alone
from dire_plug.upstream.source.vendor import require_vendored, unpatched_copy

MADE = "made"
"""In the folder of a preparation: what upstream's code wrote; nothing else remains there."""
SEED = 0
"""Fixed, as the teachers' seeds are: runs of all seeds and arms share what is prepared."""


def run_preparation(
    adapter: Adapter,
    name: str,
    inputs: LoopInputs,
    script_inputs: ScriptInputs,
    *,
    folder: Path,
    device: str = "cpu",
    threads: int = 1,
    run: Runner = run_alone,
) -> Path:
    """Run one preparation of a method in `folder`; return the folder of its results, which is all that remains.

    Args:
        inputs: of the loop, with the folders of the preparations before.
        device, threads: of the child.
        run: what runs it.

    Raises:
        UpstreamFailedError: upstream's code failed.
        DirePlugError: it isn't vendored.
    """
    folder = folder.absolute()
    inner = replace(inputs, folder=folder / "inputs", images=folder / MADE)
    for path in (inner.folder, inner.images):
        shutil.rmtree(path, ignore_errors=True)
        make_folder(path)
    wanted = next(one for one in adapter.preparations(inner) if one.name == name)
    ui.say("; ".join(filter(None, [f"prepare: {name} by {adapter.title}'s own code", wanted.estimate])))
    adapter.write_inputs(inner, script_inputs)
    job = ChildJob(
        # unpatched: what is prepared is upstream's own, and the bridge needs a synthesis
        tree=unpatched_copy(adapter, require_vendored(adapter), folder / "tree"),
        script=wanted.invocation.script,
        arguments=wanted.invocation.arguments,
        folder=folder,
        shims=wanted.invocation.shims,
        seed=SEED,
        device=device,
        threads=threads,
        # some scripts make files first and then go on; after so many steps all is there
        stop_after_steps=wanted.stop_after_steps,
    )
    run([job], logs=[folder / "log.txt"])
    for path in (inner.folder, folder / "tree"):
        shutil.rmtree(path)
    for path in (folder / "log.txt", folder / "job.json", folder / "events.jsonl"):
        path.unlink(missing_ok=True)
    return folder / MADE
