"""Measures DiRe's share of a synthesis step in each method's own loop, beside the authors' loss in its place.

Needs: the package with its extras `test` (the release uses torchmetrics) and `upstreams`, the methods' repositories
within reach, and the release, cloned at run time, or a checkout of it given by --checkout.

    python benchmarks/step_share.py --steps 20
    python benchmarks/step_share.py sre2l dwa --full
    python benchmarks/step_share.py dwa --accelerate
    python benchmarks/step_share.py sre2l --full --terms dire dire=auto energy soft-chamfer facility-location dpp

Upstream's patched script runs in one child for each arm (no term; ours, variant `released`; the authors' DiversityLoss
as shipped), and the children take turns step by step, so that step i is compared with step i. A step lasts from the end
of one to the end of the next; the first of all, of a slot and of a network aren't counted. Teachers are seeded and
untrained, training images generated, real embeddings random and non-negative. Children keep the memory that they free:
else steps pay for page faults, one more than another. "Call" is the processor's time in the term's forward computation.

The cases are those of `dire-plug verify` with a longer loop; --full has the size of CIFAR. With --accelerate the arms
are a loop without a term, as it is and as `--accelerate exact` runs it, and their traces are compared. With --terms
they are a loop without a term and one with each of these regularizers, at its defaults; `=auto` gives it that weight.
"""

from __future__ import annotations

import argparse
import copy
import os
import platform
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ledger
import torch
from diversity_loss import COMMIT, clone, processor
from safetensors.torch import save_file
from step_cases import CASES, Case
from turn_plugins import AUTHORS, known_plugins

from dire_plug.errors import DirePlugError
from dire_plug.files import make_folder
from dire_plug.models import last_linear
from dire_plug.plugins import load_adapter
from dire_plug.recipe.weight import AutoWeight
from dire_plug.types import Adapter
from dire_plug.upstream.interleave import Round, counted, interleave
from dire_plug.upstream.runner import run_alone, run_child
from dire_plug.upstream.source.vendor import vendor
from dire_plug.upstream.verify import runs

BASE, OURS, THEIRS = "without", "ours", "authors'"
PLAIN, FASTER = "as it is", "accelerated"
EPSILON = torch.finfo(torch.float32).eps
WARM_UP = 2
"""The steps of each child that aren't counted."""


@dataclass(frozen=True)
class Arm:
    """One child: its terms, whether it is accelerated, whether it writes a trace."""

    regularizers: Mapping[str, dict[str, Any]]
    accelerate: bool = False
    trace: bool = False


def main() -> None:
    """Measure the methods one after the other; print two rows of each: by wall clock, and by processor time."""
    options = parse()
    os.environ["OMP_NUM_THREADS"] = "1"
    missing = []
    with tempfile.TemporaryDirectory() as folder, known_plugins():
        checkout = options.checkout or (None if options.named else clone(Path(folder) / "release"))
        arms = choose_arms(options, checkout)
        print(f"{describe(options)}\n{heading(arms)}", flush=True)
        for method in options.methods:
            case, place = CASES[method], Path(folder) / method
            try:
                rounds, remark = measure(load_adapter(method), case, arms, options=options, folder=place)
            except DirePlugError as error:
                print(f"{method}: not measured: {error}", flush=True)
                missing.append(method)
                continue
            name, rounds = f"{method} {case.describe(full=options.full)}", counted(rounds, WARM_UP)
            print("\n".join(row(name, rounds, clock=clock, remark=remark) for clock in ("wall", "cpu")), flush=True)
            for clock in ("wall", "cpu"):
                sides = {arm: [1000 * getattr(one[arm], clock) for one in rounds] for arm in arms}
                ledger.record(
                    options.json,
                    name,
                    sides,
                    benchmark="step_share",
                    unit=f"{clock} ms",
                    device=options.device,
                    remark=remark,
                )
    if missing:
        raise SystemExit(f"not measured: {', '.join(missing)}; why stands above")


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("methods", nargs="*", choices=[*CASES, []], help="default: all, with --accelerate dwa")
    parser.add_argument("--checkout", type=Path, help="a checkout of the release; cloned where it isn't given")
    parser.add_argument("--steps", type=int, default=20, help=f"of each arm, beside {WARM_UP} that aren't counted")
    parser.add_argument("--real", type=int, default=500, help="real embeddings of a class")
    parser.add_argument("--full", action="store_true", help="batches of the size of CIFAR, published networks")
    parser.add_argument("--terms", nargs="+", default=[], help="regularizers, NAME or NAME=auto, in the authors' place")
    parser.add_argument("--accelerate", action="store_true", help="compare a loop with its accelerated form instead")
    parser.add_argument("--device", default="cpu", help="where the loops run")
    parser.add_argument("--json", type=Path, help="a ledger to add the cases to: see ledger.py")
    options = parser.parse_args()
    options.named = bool(options.accelerate or options.terms)
    options.methods = options.methods or (["dwa"] if options.accelerate else list(CASES))
    return options


def choose_arms(options: argparse.Namespace, checkout: Path | None) -> dict[str, Arm]:
    """Return the arms by name; the first is what the others are compared with."""
    if options.accelerate:
        return {FASTER: Arm({}, accelerate=True, trace=True), PLAIN: Arm({}, trace=True)}
    if options.terms:
        return {BASE: Arm({}), **{term: Arm(dict([read_term(term)])) for term in options.terms}}
    theirs = {AUTHORS: {"checkout": str(checkout)}}
    return {BASE: Arm({}), OURS: Arm({"dire": {}}), THEIRS: Arm(theirs)}


def read_term(term: str) -> tuple[str, dict[str, Any]]:
    """Return the name of a regularizer and its settings, from NAME or NAME=auto."""
    name, _, weight = term.partition("=")
    return name, ({"weight": AutoWeight().model_dump()} if weight == "auto" else {})


def measure(
    adapter: Adapter, case: Case, arms: Mapping[str, Arm], *, options: argparse.Namespace, folder: Path
) -> tuple[list[Round], str]:
    """Return the rounds of one method's loop, and a remark on what its arms computed.

    Raises:
        DirePlugError: the method's repository can't be reached, a child failed, or too few steps count.
    """
    if options.accelerate and not adapter.freezes_after_first_step:
        raise DirePlugError(f"{adapter.name}: nothing of its loop is left out by `--accelerate exact`; try dwa")
    make_folder(folder)
    tree = vendor(adapter)
    rounds = options.steps + WARM_UP
    sized = copy.copy(adapter)
    reduced = case.resize(adapter.verify_case(case.script), rounds=rounds, full=options.full)
    setattr(sized, "verify_case", lambda script: reduced)  # noqa: B010 (mypy lets no method be replaced)
    setup = runs.set_up(sized, case.script, folder, run=run_alone)
    real = write_real(setup, folder, per_class=options.real)
    children = {
        name: partial(run_arm, setup, name, arm, tree=tree, real=real, folder=folder, device=options.device)
        for name, arm in arms.items()
    }
    _, played = interleave(children, rounds)
    if (left := len(counted(played, WARM_UP))) < 2:
        raise DirePlugError(f"{adapter.name}: {left} of {rounds} steps count, too few for a spread; take more --steps")
    if options.accelerate:
        traces = {runs.read_hashes(folder / name).steps for name in arms}
        return played, f"{rounds} steps {'equal' if len(traces) == 1 else 'DIFFER'}"
    return played, "" if options.terms else f"≤ {disagreement(played[0]):.0e}"


def write_real(setup: runs.Setup, folder: Path, *, per_class: int) -> dict[str, str]:
    """Write seeded random non-negative embeddings for each network; return key → file."""
    generator = torch.Generator().manual_seed(runs.SEED)
    labels = torch.arange(setup.inputs.classes).repeat_interleave(per_class)
    files = {}
    for key, network in setup.script_inputs.teachers.items():
        values = torch.randn(len(labels), last_linear(network.model).in_features, generator=generator).abs()
        files[key] = str(folder / f"real-{key}.safetensors")
        save_file({"values": values, "labels": labels}, files[key])
    return files


def run_arm(
    setup: runs.Setup,
    name: str,
    arm: Arm,
    address: str,
    *,
    tree: Path,
    real: Mapping[str, str],
    folder: Path,
    device: str = "cpu",
) -> None:
    """Run upstream's patched script in a child until it is stopped."""
    folder = folder.absolute() / name
    job = runs.write_job(setup, folder, tree, regularizers=dict(arm.regularizers), accelerate=arm.accelerate)
    job = replace(
        job,
        device=device,
        synthesis={**(job.synthesis or {}), "real": dict(real)},
        trace=job.trace if arm.trace else None,
        stop_after_steps=None,
        turns={"address": address, "arm": name, "keep_memory": True},
    )
    run_child(job, log=folder / "log.txt", on_event=lambda event: None)


def disagreement(first: Round) -> float:
    """Return the bound of how far our term lies from the authors' in the first step, of the same images; relative.

    A term is the difference of two losses in float32, so it can't be known better than these.
    """
    ours, theirs = first[OURS], first[THEIRS]
    return max(abs(ours.term - theirs.term), EPSILON * abs(theirs.loss)) / abs(theirs.term)


def ratios(rounds: Sequence[Round], arm: str, base: str, *, clock: str) -> list[float]:
    """Return, round by round, the seconds of one arm in those of another."""
    return [getattr(one[arm], clock) / getattr(one[base], clock) for one in rounds]


def spread(values: Sequence[float], form: Callable[[float], str]) -> str:
    """Return median [first quartile–third quartile]."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{form(middle)} [{form(low)}–{form(high)}]"


def share(ratio: float) -> float:
    """Return, in %, what a term takes of a step that lasts `ratio` times as long with it."""
    return 100 * (1 - 1 / ratio)


def heading(arms: Mapping[str, Arm]) -> str:
    """Return the names of the columns, as `row` fills them."""
    base, *others = arms
    cells = [f"{'method':44} clock", *(f"{name + ', ms':>22}" for name in arms)]
    cells += [f"{name + ' / ' + base:>26}" for name in others]
    if base == BASE:
        cells += [*(f"{'share of ' + name + ', %':>24}" for name in others), f"{'call, ms':>9}"]
    last = {FASTER: "traces", BASE: "terms apart by" if THEIRS in arms else ""}
    return " ".join([*cells, "   n", last[base]])


def row(name: str, rounds: Sequence[Round], *, clock: str, remark: str) -> str:
    """Return one line of the table: milliseconds and ratios as median [quartiles], the share likewise, n."""
    base, *others = rounds[0]
    cells = [f"{name:44} {clock:>5}"]
    for arm in (base, *others):
        cells.append(f"{spread([1000 * getattr(one[arm], clock) for one in rounds], '{:.0f}'.format):>22}")
    compared = {arm: ratios(rounds, arm, base, clock=clock) for arm in others}
    cells += [f"{spread(compared[arm], '{:.3f}'.format):>26}" for arm in others]
    if base == BASE:
        cells += [f"{spread(list(map(share, compared[arm])), '{:.1f}'.format):>24}" for arm in others]
        calls = (f"{1000 * statistics.median(one[arm].call for one in rounds):.0f}" for arm in others)
        cells.append(f"{' / '.join(calls):>9}")
    return " ".join([*cells, f"{len(rounds):4}", remark])


def describe(options: argparse.Namespace) -> str:
    """Return what the numbers were made with."""
    return (
        f"{processor()}, {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}, one thread, "
        f"torch {torch.__version__}, torchmetrics {version('torchmetrics')}, Python {platform.python_version()}; "
        f"{options.real} real embeddings a class; median [quartiles] of n steps in turns; release {COMMIT[:12]}"
    )


if __name__ == "__main__":
    main()
