"""Run a job in the child process: verify the tree, install shims, open the synthesis, run the script in a copy.

Run as `python -P -m dire_plug.upstream.child JOB EVENTS LIFE`: the job file, the pipe for events (JSON lines), and a
pipe whose other end the parent holds.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import json
import os
import runpy
import shutil
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dire_plug.errors import DirePlugError, PluginError
from dire_plug.seeding import choose_deterministic_kernels
from dire_plug.upstream.job import ChildJob
from dire_plug.upstream.source.tree import verify_tree

if TYPE_CHECKING:
    from dire_plug.synthesis import RunningSynthesis
    from dire_plug.upstream.trace import ByHand

ORPHANED = 70
"""Exit status of a child whose parent has ended."""
REPORTED = 71
"""Exit status after an error that the child reported as an event."""

Emit = Callable[[dict[str, Any]], None]


def main(arguments: list[str]) -> int:
    """Run a job; return the exit status. An error of upstream's own is not caught, so that Python prints it."""
    job_file, events, life = Path(arguments[0]), int(arguments[1]), int(arguments[2])
    for handle in (events, life):
        os.set_inheritable(handle, False)
    # a thread and not a signal: the parent may be killed by SIGKILL, and then closes its pipes only
    threading.Thread(target=_die_with_parent, args=(life,), daemon=True).start()
    emit = _emitter(events)
    try:
        run_job(ChildJob.read(job_file), emit)
    except DirePlugError as error:
        kind = "plugin" if isinstance(error, PluginError) else "user"
        emit({"event": "error", "kind": kind, "message": str(error)})
        return REPORTED
    emit({"event": "finished"})
    return 0


def run_job(job: ChildJob, emit: Emit) -> None:
    """Verify, prepare, and run every pass of the job, in a copy of the tree."""
    # again, although the parent did: this process runs the code, and the tree may have changed in between
    verify_tree(job.tree)
    # a copy, so that a script may write beside itself; its own folder is the working folder, as the published commands
    # have it (`cd recover && python …`), whose `..` leads to upstream's other folders
    copy = job.folder.absolute() / "scratch" / "cwd"
    shutil.copytree(job.tree, copy, dirs_exist_ok=True)
    with contextlib.chdir((copy / job.script).parent):
        _run_passes(replace(job, tree=copy), emit)


def _run_passes(job: ChildJob, emit: Emit) -> None:
    import_all(job.tree)
    _prepare_torch(job)
    from dire_plug.upstream import shims
    from dire_plug.upstream.interleave import take_turns
    from dire_plug.upstream.trace import ByHand, StopScriptError, trace_steps

    # before the synthesis and the script import anything that the shims replace
    shims.install(job.shims, device=job.device, tree=job.tree)
    synthesis = _open_synthesis(job, emit)
    by_hand = ByHand(job.tree, job.optimized) if job.optimized else None
    try:
        with (
            _observed(job, synthesis, by_hand),
            trace_steps(job.trace, stop_after=job.stop_after_steps, by_hand=by_hand),
        ):
            take_turns(synthesis, job.turns)
            for pass_index in job.passes:
                _run_pass(job, pass_index, synthesis)
                emit({"event": "pass", "pass": pass_index})
    except StopScriptError:
        emit({"event": "stopped", "steps": job.stop_after_steps})


OURS = ("synthesis", "bridge", "upstream.interleave", "upstream.trace", "upstream.verify.observe")
"""Our modules that a child may use; they import the others."""


def import_all(tree: Path) -> None:
    """Import our modules, and the packages that the code in `tree` names, as far as they are installed.

    Some packages draw random numbers when they are imported (rich does). So all are imported before the seed, in every
    child alike: patched or not, in its first pass or in a later one.
    """
    from dire_plug.upstream import shims

    for name in (*OURS, *(f"upstream.shims.{one}" for one in shims.known_shims())):
        importlib.import_module(f"dire_plug.{name}")
    files = list(tree.rglob("*.py"))
    own = {part for file in files for part in file.relative_to(tree).with_suffix("").parts}
    for name in sorted(set().union(*map(_imported, files))):
        # wandb is replaced by a shim, and the real one would look for its server
        if name.partition(".")[0] not in (*own, "wandb"):
            # what upstream only names, or what fails here, fails where upstream imports it, if it does
            with contextlib.suppress(Exception, SystemExit):
                importlib.import_module(name)


def _imported(file: Path) -> set[str]:
    """Return the modules that a file imports by absolute names; none where it isn't of this Python."""
    try:
        nodes = list(ast.walk(ast.parse(file.read_bytes())))
    except (SyntaxError, ValueError):
        return set()
    whole = {one.name for node in nodes if isinstance(node, ast.Import) for one in node.names}
    return whole | {
        node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level
    }


def _prepare_torch(job: ChildJob) -> None:
    import torch

    torch.set_num_threads(job.threads)
    choose_deterministic_kernels()


def _open_synthesis(job: ChildJob, emit: Emit) -> RunningSynthesis | None:
    if job.synthesis is None:
        return None
    from dire_plug import bridge
    from dire_plug.synthesis import open_synthesis

    synthesis = open_synthesis({**job.synthesis, "device": job.device}, emit)
    bridge.attach(synthesis)
    return synthesis


def _observed(
    job: ChildJob, synthesis: RunningSynthesis | None, by_hand: ByHand | None
) -> contextlib.AbstractContextManager[None]:
    if job.observed is None:
        return contextlib.nullcontext()
    from dire_plug.upstream.verify.observe import observe

    return observe(job.observed, tree=job.tree, synthesis=synthesis, spec=job.synthesis, by_hand=by_hand)


def _run_pass(job: ChildJob, pass_index: int, synthesis: RunningSynthesis | None) -> None:
    from dire_plug.seeding import seed_everything

    script = job.tree / job.script
    sys.argv = [str(script), *job.arguments, *job.pass_arguments.get(pass_index, ())]
    if sys.path[0] != str(script.parent):
        sys.path.insert(0, str(script.parent))  # run_path doesn't, and the scripts import their neighbours
    if synthesis is not None:
        synthesis.begin_pass(pass_index)
    # after `begin_pass`, which may draw: the script's random numbers must not depend on a synthesis
    seed_everything(job.seed, pass_index)
    try:
        runpy.run_path(str(script), run_name="__main__")
    # a script that ends by sys.exit(0) has finished its pass
    except SystemExit as end:
        if end.code not in (None, 0):
            raise
    finally:
        _forget_modules(job.tree)
    if synthesis is not None:
        synthesis.end_pass()


def _forget_modules(tree: Path) -> None:
    """Unload upstream's own modules: state that one keeps must not reach the next pass, as it can't after a resume."""
    below = tuple(f"{root.absolute()}{os.sep}" for root in (tree, tree.resolve()))
    for name, module in list(sys.modules.items()):
        known = getattr(module, "__dict__", {})  # not getattr: some of torch's modules answer every name
        places = (known.get("__file__"), *known.get("__path__", ()))
        # abspath, since a script's `sys.path.append("..")` stands in the middle of such a path
        if any(os.path.abspath(place).startswith(below) for place in places if isinstance(place, str)):
            del sys.modules[name]


def _emitter(handle: int) -> Emit:
    stream = os.fdopen(handle, "w", encoding="utf-8", buffering=1)

    def emit(event: dict[str, Any]) -> None:
        stream.write(json.dumps(event) + "\n")

    return emit


def _die_with_parent(handle: int) -> None:
    os.read(handle, 1)  # returns only when the other end is closed
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)  # with what upstream's code started
    os._exit(ORPHANED)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
