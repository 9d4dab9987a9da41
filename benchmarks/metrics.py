"""Times the diversity metrics against the packages that define them: prdc, vendi-score, torchmetrics.

Needs: the package with its `test` extra, which has all three.

    python benchmarks/metrics.py --rounds 7 --threads 2
    python benchmarks/metrics.py --memory

Both sides of a row run in one process in turns, on the same random features in float32. The clock and the processor's
time of the process are both taken; ratios are of one round, theirs / ours. All libraries of linear algebra are held to
`--threads`; prdc besides distributes its distances over eight threads of its own, as it always does. "Apart by" is
the largest difference of the values, relative. With `--memory`, each side runs in a child process of its own, which
tells its peak of resident memory: after the imports, with the features, and at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import ledger
import torch
from diversity_loss import processor
from threadpoolctl import threadpool_limits
from torch import Tensor

from dire_plug.metrics import intra_class_similarity, mean_class_vendi, nearest_radii, prdc_metrics, vendi

NEAREST_K = 5
CLASSES = 10
PACKAGES = ("torch", "prdc", "scikit-learn", "vendi-score", "torchmetrics", "numpy", "scipy")

Values = Mapping[str, float]
Side = Callable[[], Values]


@dataclass(frozen=True)
class Case:
    """One row of the table: a name, how it is computed elsewhere and here."""

    name: str
    theirs: Side
    ours: Side


@dataclass(frozen=True)
class Reading:
    """Wall-clock and CPU seconds of one call."""

    wall: float
    cpu: float


def main() -> None:
    """Print a table of times, or of memory."""
    options = parse()
    torch.set_num_threads(options.threads)
    threadpool_limits(options.threads)
    if options.child:
        print(json.dumps(watch(options.child)))
        return
    print(describe(options), flush=True)
    if options.memory:
        for name in SIDES:
            print(f"{name:44} {' '.join(f'{value:7.0f}' for value in child(name, options.threads))}", flush=True)
        return
    print(f"{'':44} {'apart by':>9} {'theirs, s':>12} {'ours, s':>12}", end=" ")
    print(f"{'wall ratio':>20} {'processor ratio':>20}")
    for case in cases(options.scale, options.device):
        print(report(case, options.rounds, options.json, options.device), flush=True)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--scale", type=int, default=1, help="divides the numbers of rows")
    parser.add_argument("--device", default="cpu", help="where our side runs; the packages take arrays of the CPU")
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--json", type=Path, help="a ledger to add the cases to: see ledger.py")
    parser.add_argument("--child", choices=SIDES, help=argparse.SUPPRESS)
    return parser.parse_args()


def describe(options: argparse.Namespace) -> str:
    """Return what the numbers were made with."""
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return (
        f"{processor()}, {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}, {options.threads} "
        f"thread(s), Python {platform.python_version()}, {versions}; "
        + ("MB: imports, features, peak" if options.memory else f"median [min–max] of {options.rounds} rounds in turns")
    )


def features(count: int, width: int = 512, *, seed: int) -> Tensor:
    """Return random features, in float32."""
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def cases(scale: int, device: str = "cpu") -> list[Case]:
    """Return the rows of the table; our side gets its features on `device`."""
    real, made = features(10_000 // scale, seed=0), features(5_000 // scale, seed=1)
    few, labels = features(500 // scale, seed=2), labels_of(real)
    mine, mine_made, mine_few, mine_labels = (one.to(device) for one in (real, made, few, labels))
    radii = nearest_radii(mine, nearest_k=NEAREST_K)
    return [
        Case(f"prdc {sizes(real, made)}, radii kept", prdc(real, made), ours(mine, mine_made, radii)),
        Case(f"prdc {sizes(real, made)}", prdc(real, made), ours(mine, mine_made, None)),
        Case(f"vendi-score, score_dual {sizes(real)}", package_vendi("score_dual", real), own_vendi(mine)),
        Case(f"vendi-score, score_X {sizes(few)}", package_vendi("score_X", few), own_vendi(mine_few)),
        Case(
            f"torchmetrics, within {CLASSES} classes {sizes(real)}",
            cosines(real, labels),
            similarity(mine, mine_labels),
        ),
    ]


def sizes(*sets: Tensor) -> str:
    """Return how many rows there are, and how wide they are."""
    return f"{' × '.join(f'{len(one):,}' for one in sets)} at {sets[0].shape[1]}"


def prdc(real: Tensor, made: Tensor) -> Side:
    """Return the package's call; it prints, which is swallowed."""
    from prdc import compute_prdc

    def call() -> Values:
        with contextlib.redirect_stdout(None):
            found = compute_prdc(real.numpy(), made.numpy(), NEAREST_K)
        return {name: float(value) for name, value in found.items()}

    return call


def ours(real: Tensor, made: Tensor, radii: Tensor | None) -> Side:
    """Return our call of the same four."""
    return lambda: vars(prdc_metrics(real, made, nearest_k=NEAREST_K, radii=radii))


def package_vendi(name: str, rows: Tensor) -> Side:
    """Return the call of one of vendi-score's two forms, in float64 as ours: products of rows, or of columns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import vendi_score.vendi as package

    def call() -> Values:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return {"vendi": float(getattr(package, name)(rows.double().numpy()))}

    return call


def own_vendi(rows: Tensor) -> Side:
    """Return our call, which chooses the form by the shape."""
    return lambda: {"vendi": vendi(rows)}


def cosines(rows: Tensor, labels: Tensor) -> Side:
    """Return the mean similarity from torchmetrics' matrices of all pairs, class by class, in float64 as ours."""
    from torchmetrics.functional.pairwise import pairwise_cosine_similarity

    def call() -> Values:
        each = (rows[labels == label].double() for label in range(CLASSES))
        sums = ((pairwise_cosine_similarity(own, zero_diagonal=True).sum(), len(own)) for own in each)
        return {"similarity": float(sum(total / (n * (n - 1)) for total, n in sums) / CLASSES)}

    return call


def similarity(rows: Tensor, labels: Tensor) -> Side:
    """Return our call."""
    return lambda: {"similarity": float(intra_class_similarity(rows, labels).mean())}


def report(case: Case, rounds: int, file: Path | None = None, device: str = "cpu") -> str:
    """Run both sides in turns, after one round that isn't counted; return the row, and add it to a ledger."""
    values = {side: side() for side in (case.theirs, case.ours)}
    readings = [[timed(side) for side in (case.theirs, case.ours)] for _ in range(rounds)]
    theirs, own = values[case.theirs], values[case.ours]
    apart = max(abs(own[name] - value) / max(abs(value), 1e-300) for name, value in theirs.items())
    walls = [statistics.median(pair[at].wall for pair in readings) for at in (0, 1)]
    ratios = (
        [theirs.wall / own.wall for theirs, own in readings],
        [theirs.cpu / own.cpu for theirs, own in readings],
    )
    for clock in ("wall", "cpu"):
        sides = {name: [getattr(pair[at], clock) for pair in readings] for at, name in ((1, "ours"), (0, "theirs"))}
        remark = f"apart by {apart:.0e}"
        ledger.record(file, case.name, sides, benchmark="metrics", unit=f"{clock} s", device=device, remark=remark)
    cells = [f"{case.name:44} {apart:9.1e}", *(f"{wall:12.4f}" for wall in walls)]
    return " ".join([*cells, *(f"{spread(one):>20}" for one in ratios)])


def timed(side: Side) -> Reading:
    """Return how long one call takes."""
    wall, cpu = time.perf_counter(), time.process_time()
    side()
    return Reading(time.perf_counter() - wall, time.process_time() - cpu)


def spread(values: list[float]) -> str:
    """Return median [min–max]."""
    return f"{statistics.median(values):.1f} [{min(values):.1f}–{max(values):.1f}]"


def child(name: str, threads: int) -> list[float]:
    """Return, of a process of its own, MB after the imports, with the features, and at the peak."""
    command = [sys.executable, __file__, "--child", name, "--threads", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: list[float] = json.loads(done.stdout)
    return found


def watch(name: str) -> list[float]:
    """Run one side; return the peaks of resident memory, in MB of 10⁶ bytes."""
    make, *counts = SIDES[name]
    make(*(features(2 * CLASSES, seed=0) for _ in counts))()
    peaks = [peak()]
    sets = [features(count, seed=seed) for seed, count in enumerate(counts)]
    peaks.append(peak())
    make(*sets)()
    return [*peaks, peak()]


def peak() -> float:
    """Return the most memory that was resident so far, in MB."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def labels_of(rows: Tensor) -> Tensor:
    """Return labels of as many rows, of `CLASSES` classes in turn."""
    return torch.arange(len(rows)) % CLASSES


SIDES: dict[str, tuple[Callable[..., Side], *tuple[int, ...]]] = {
    "prdc 10,000 × 5,000": (prdc, 10_000, 5_000),
    "ours 10,000 × 5,000": (lambda real, made: ours(real, made, None), 10_000, 5_000),
    "ours 50,000 × 5,000": (lambda real, made: ours(real, made, None), 50_000, 5_000),
    "vendi-score, score_dual 50,000": (lambda rows: package_vendi("score_dual", rows), 50_000),
    "ours, Vendi 50,000": (own_vendi, 50_000),
    "ours, Vendi of each class 50,000": (
        lambda rows: lambda: {"vendi": mean_class_vendi(rows, labels_of(rows))},
        50_000,
    ),
    "torchmetrics, within classes 10,000": (lambda rows: cosines(rows, labels_of(rows)), 10_000),
    "ours, similarity 50,000": (lambda rows: similarity(rows, labels_of(rows)), 50_000),
}
"""What is measured in a process of its own → what makes its call, and the numbers of rows; 512 wide."""

if __name__ == "__main__":
    main()
