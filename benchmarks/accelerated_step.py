"""Times a synthesis step of each method as published, with each component of `--accelerate fast` alone, and with all.

Needs: the package with its extra `upstreams`, and the methods' repositories within reach. Writes a table to the
terminal and, with --json, every measurement into a ledger.

    python benchmarks/accelerated_step.py sre2l --steps 10 --json accelerated.json
    python benchmarks/accelerated_step.py cda dwa --arms fast frozen
    python benchmarks/accelerated_step.py sre2l --device cuda

Upstream's patched script runs in one child for each arm, on batches of 100 images of 32 pixels, and the children take
turns step by step, so that step i is compared with step i. A step lasts from the end of one to the end of the next;
the first two, and the first of a slot, aren't counted. Teachers are seeded and untrained, images generated. The home
folder is a new one, so the first step of a compiled arm holds the whole compilation; that arm is then started again,
which gives the seconds that every later pass takes for it. A machine that can't do a component leaves its arm out.
"""

from __future__ import annotations

import argparse
import copy
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import ledger
import torch
from step_cases import CASES, Case

from dire_plug.acceleration import COMPILE, Components, acting_components, find_missing, resolve
from dire_plug.errors import DirePlugError
from dire_plug.files import make_folder
from dire_plug.plugins import load_adapter
from dire_plug.store.provenance import code, hardware
from dire_plug.types import Adapter
from dire_plug.upstream.interleave import counted, interleave
from dire_plug.upstream.runner import run_alone, run_child
from dire_plug.upstream.source.vendor import vendor
from dire_plug.upstream.verify import runs

PUBLISHED, FAST = "as published", "fast"
WARM_UP = 2
"""The steps of each child that aren't counted."""
SIZE = 32
ITERATIONS: Mapping[str, int] = {"sre2l": 1000, "cda": 1000, "dwa": 1000, "infer": 1000, "delt": 4000, "g-vbsm": 4000}
"""Method → the iterations of a batch in its CIFAR recipe, over which a compilation is spread."""


def main() -> None:
    """Measure the methods one after the other; print the rows of each."""
    options = parse()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DIRE_PLUG_HOME"] = folder
        print(f"{describe(options)}\n{HEADING}", flush=True)
        for method in options.methods:
            try:
                rows = measure(load_adapter(method), CASES[method], options=options, folder=Path(folder) / method)
            except DirePlugError as error:
                print(f"{method}: not measured: {error}", flush=True)
                continue
            print("\n".join(show(row, rows[0]) for row in rows), flush=True)
            compiled = "; ".join(f"{row['arm']}: {compilation(row)}" for row in rows if row["first_again"])
            for clock in ("wall", "cpu"):
                ledger.record(
                    options.json,
                    f"{method} {CASES[method].describe(full=True)}",
                    {row["arm"]: [1000 * one for one in row[clock]] for row in rows},
                    benchmark="accelerated_step",
                    unit=f"{clock} ms",
                    device=options.device,
                    remark=compiled and f"compilation, first and again: {compiled}",
                )


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", choices=[*CASES, []])
    parser.add_argument("--steps", type=int, default=10, help=f"of each arm, beside {WARM_UP} that aren't counted")
    parser.add_argument("--arms", nargs="+", help="components, joined by +, or fast; default: each alone, then fast")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="a ledger to add the cases to: see ledger.py")
    options = parser.parse_args()
    options.methods = options.methods or list(CASES)
    return options


def choose_arms(adapter: Adapter, case: Case, options: argparse.Namespace) -> dict[str, Components]:
    """Return the arms by name, those that this machine can do; the first is what the others are compared with.

    Raises:
        DirePlugError: no component acts in the script here.
    """
    everything = resolve(acting_components(adapter, adapter.scripts[case.script]), find_missing(options.device))
    if not everything.names:
        raise DirePlugError(f"no component acts in {adapter.name}'s scripts here {dict(everything.left_out) or ''}")
    named = options.arms or [*everything.names, FAST]
    arms = {PUBLISHED: Components()}
    for name in named:
        wanted = everything.names if name == FAST else tuple(part.replace("_", " ") for part in name.split("+"))
        if set(wanted) <= set(everything.names):
            arms[name] = resolve(wanted, {})
    return arms


def measure(adapter: Adapter, case: Case, *, options: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Return one row for each arm of a method.

    Raises:
        DirePlugError: nothing acts, the repository can't be reached, a child failed, or too few steps count.
    """
    arms = choose_arms(adapter, case, options)
    make_folder(folder)
    tree, rounds = vendor(adapter), options.steps + WARM_UP
    setup = set_up(adapter, case, rounds=rounds, folder=folder)
    children = {
        name: partial(run_arm, setup, name, one, tree=tree, folder=folder, device=options.device)
        for name, one in arms.items()
    }
    starts, played = interleave(children, rounds)
    kept = counted(played, WARM_UP)
    if len(kept) < 2:
        raise DirePlugError(f"{adapter.name}: {len(kept)} of {rounds} steps count; take more --steps")
    again = {name: warm_start(name, children[name]) for name, one in arms.items() if COMPILE in one}
    return [
        {
            "method": adapter.name,
            "case": case.describe(full=True),
            "arm": name,
            "components": list(one.names),
            "iterations": ITERATIONS.get(adapter.name),
            "wall": [each[name].wall for each in kept],
            "cpu": [each[name].cpu for each in kept],
            "losses": [each[name].loss for each in played],
            "start": starts[name][0],
            "first": played[0][name].wall,
            "first_again": again.get(name),
            "memory": played[-1][name].memory,
            "gpu_memory": played[-1][name].gpu_memory,
        }
        for name, one in arms.items()
    ]


def set_up(adapter: Adapter, case: Case, *, rounds: int, folder: Path) -> runs.Setup:
    """Return the case at the size of CIFAR: batches of 100 images of 32 pixels."""
    sized = copy.copy(adapter)
    reduced = case.resize(adapter.verify_case(case.script), rounds=rounds, full=True)
    setattr(sized, "verify_case", lambda name: reduced)  # noqa: B010 (mypy lets no method be replaced)
    setup = runs.set_up(sized, case.script, folder, run=run_alone)
    if adapter.scripts[case.script].size == SIZE:
        return setup
    # as a recipe of another dataset than the script's has it: other noise, and a shim that crops to its size
    inputs, start = replace(setup.inputs, size=SIZE), {**setup.start, "shape": [3, SIZE, SIZE]}
    return replace(setup, inputs=inputs, start=start)


def run_arm(
    setup: runs.Setup, name: str, arm: Components, address: str, *, tree: Path, folder: Path, device: str
) -> None:
    """Run upstream's patched script in a child until it is stopped."""
    folder = folder.absolute() / name.replace(" ", "-")
    job = runs.write_job(setup, folder, tree, regularizers={}, components=arm.names)
    turns = {"address": address, "arm": name, "keep_memory": True}
    job = replace(job, trace=None, stop_after_steps=None, device=device, turns=turns, threads=torch.get_num_threads())
    run_child(job, log=folder / "log.txt", on_event=lambda event: None)


def warm_start(name: str, child: Callable[[str], None]) -> float:
    """Return the wall-clock seconds of the first step of an arm whose kernels are compiled already."""
    _, played = interleave({name: child}, 1)
    took: float = played[0][name].wall
    return took


HEADING = (
    f"{'method, arm':46} {'CPU ms':>20} {'wall ms':>20} {'published / arm, CPU':>24} {'wall':>20} {'n':>3} "
    f"{'compile s, first / again':>26} {'a batch, wall':>14} {'MiB':>6}"
)


def show(row: Mapping[str, Any], published: Mapping[str, Any]) -> str:
    """Return one line: milliseconds and speed-ups as median [quartiles], the compilation, and a batch with it."""
    cells = [f"{row['method'] + ', ' + row['arm']:46}"]
    cells += [f"{spread([1000 * one for one in row[clock]], '{:.0f}'):>20}" for clock in ("cpu", "wall")]
    for clock, width in (("cpu", 24), ("wall", 20)):
        ratios = [one / other for one, other in zip(published[clock], row[clock], strict=True)]
        cells.append(f"{'' if row is published else spread(ratios, '{:.2f}'):>{width}}")
    cells.append(f"{len(row['wall']):3}")
    cells.append(f"{compilation(row) if row['first_again'] else '':>26}")
    cells.append(f"{'' if row is published else f'{batch_ratio(row, published):.2f}':>14}")
    return " ".join([*cells, f"{row['memory'] / 2**20:6.0f}"])


def compilation(row: Mapping[str, Any]) -> str:
    """Return the wall-clock seconds of a compilation: in an empty home, and where the kernels are there."""
    step = statistics.median(row["wall"])
    return " / ".join(f"{row[name] - step:.0f}" for name in ("first", "first_again")) + " s"


def batch_ratio(row: Mapping[str, Any], published: Mapping[str, Any]) -> float:
    """Return how many times faster a batch of the recipe's iterations is, the compilation of a later pass included."""
    count = int(row["iterations"] or 1)
    step, other = (float(statistics.median(one["wall"])) for one in (row, published))
    again = max(0.0, float(row["first_again"]) - step) if row["first_again"] else 0.0
    return count * other / (count * step + again)


def spread(values: Sequence[float], form: str) -> str:
    """Return median [first quartile–third quartile]."""
    low, middle, high = (form.format(one) for one in statistics.quantiles(values, n=4, method="inclusive"))
    return f"{middle} [{low}–{high}]"


def describe(options: argparse.Namespace) -> str:
    """Return what the numbers were made with."""
    about = hardware(options.device)
    return (
        f"{about['card'] or about['processor']}, {about['cores']} cores, load {os.getloadavg()[0]:.1f}, "
        f"{about['threads']} thread(s), torch {torch.__version__}, {time.strftime('%Y-%m-%d')}; batches of 100 images "
        f"of {SIZE} pixels; median [quartiles] of n steps in turns; commit {code().commit}"
    )


if __name__ == "__main__":
    main()
