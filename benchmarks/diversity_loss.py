"""Times `diversity_loss(variant="released")` against the `DiversityLoss` of the authors' release.

Needs: the package with its `test` extra (the release uses torchmetrics), and the release, cloned at run time at the
commit below, or a checkout of it given by --checkout.

    python benchmarks/diversity_loss.py --rounds 15

All run in one process, turn by turn, forward and backward. The release is timed as shipped, where the saved real
embeddings require gradients and the loss runs back into them too, and with them detached. Ours is timed with real
embeddings that are prepared once, as in a synthesis. Differences in float64 are the largest ones, relative to the
largest magnitude. Memory is what one pass allocates at its peak beyond the embeddings, and on our side beyond their
preparation, whose size is printed beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from itertools import accumulate
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ledger
import torch
from torch import Tensor

from dire_plug.api.term import prepare_real
from dire_plug.regularizers import diversity_loss
from dire_plug.types import RealEmbeddings

REPOSITORY = "https://github.com/DIL-IITH/DiRe"
COMMIT = "c3664c699e2addc61352c4b5c81c6e97d8d16b27"
SCRIPT = "SRe2L/CIFAR100/utils_regularized.py"
SHAPES = ((50, 10, 500), (100, 1, 500), (10, 50, 5000))
WIDTH = 512
FORMS = ("shipped", "detached", "ours")

Step = Callable[[], tuple[Tensor, Tensor]]


def main() -> None:
    """Compare both at each shape and print a table."""
    options = parse()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        checkout = options.checkout or clone(Path(folder))
        print(describe(options))
        print(f"{'C×n×m':>13} {'float64 value':>14} {'gradient':>9}", end=" ")
        print(f"{'shipped, ms':>20} {'detached, ms':>20} {'ours, ms':>18}", end=" ")
        print(f"{'shipped/ours':>19} {'detached/ours':>19}", end="  ")
        print("peak MB: " + " / ".join((*FORMS, "prepared")))
        for shape in SHAPES:
            print(report(checkout, shape, options), flush=True)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkout", type=Path, help="a checkout of the release; cloned where it isn't given")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="a ledger to add the cases to: see ledger.py")
    return parser.parse_args()


def clone(folder: Path) -> Path:
    """Clone the release at its commit."""
    from git import Repo

    Repo.clone_from(REPOSITORY, folder, no_checkout=True).git.checkout(COMMIT)
    return folder


def describe(options: argparse.Namespace) -> str:
    """Return what the numbers were made with."""
    where = torch.cuda.get_device_name() if options.device.startswith("cuda") else processor()
    return (
        f"{where}, {options.threads} thread(s), torch {torch.__version__}, torchmetrics {version('torchmetrics')}, "
        f"Python {platform.python_version()}, "
        f"D {WIDTH}, float32; median [min–max] of {options.rounds} interleaved rounds; release {COMMIT[:12]}"
    )


def processor() -> str:
    """Return the processor's name, where the system says it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def report(checkout: Path, shape: tuple[int, int, int], options: argparse.Namespace) -> str:
    """Return one row of the table."""
    loss = load(checkout)
    exact = {form: build(loss, form, shape, torch.float64, options.device)() for form in ("detached", "ours")}
    pairs = zip(exact["detached"], exact["ours"], strict=True)
    value, gradient = (float((a - b).abs().max() / a.abs().max()) for a, b in pairs)
    steps = {form: build(loss, form, shape, torch.float32, options.device) for form in FORMS}
    times = interleave(steps, options.rounds, options.device)
    ratios = [[a / b for a, b in zip(times[form], times["ours"], strict=True)] for form in ("shipped", "detached")]
    sides = {form: [1000 * t for t in times[form]] for form in ("ours", "shipped", "detached")}
    name, remark = f"C×n×m {'×'.join(map(str, shape))}", f"apart by {value:.0e}"
    ledger.record(
        options.json, name, sides, benchmark="diversity_loss", unit="ms", device=options.device, remark=remark
    )
    memory = [peak(step, options.device) for step in steps.values()]
    memory.append(shape[0] * shape[2] * (WIDTH + 2) * 4 / 1e6)
    cells = [f"{'×'.join(map(str, shape)):>13} {value:14.1e} {gradient:9.1e}"]
    cells += [spread([1000 * t for t in times[form]], 20 if form != "ours" else 18) for form in FORMS]
    cells += [spread(ratio, 19) for ratio in ratios]
    return " ".join([*cells, " / ".join(f"{amount:.0f}" for amount in memory)])


def spread(values: list[float], width: int) -> str:
    """Return median [min–max]."""
    return f"{statistics.median(values):.1f} [{min(values):.1f}–{max(values):.1f}]".rjust(width)


def load(checkout: Path) -> Any:
    """Return the release's class, from its own file."""
    spec = importlib.util.spec_from_file_location("released", checkout / SCRIPT)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{checkout / SCRIPT} cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.DiversityLoss


def build(loss: Any, form: str, shape: tuple[int, int, int], dtype: torch.dtype, device: str) -> Step:
    """Return one forward and backward pass of one form: its value, and its gradient for the synthetic embeddings."""
    classes, n, m = shape
    function: Callable[[], Tensor]
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(classes * n, WIDTH, generator=generator, dtype=torch.float64).abs().to(device, dtype)
    values = torch.randn(classes, m, WIDTH, generator=generator, dtype=torch.float64).abs().to(device, dtype)
    leaf = rows.requires_grad_()
    if form == "ours":
        labels = torch.arange(classes, device=device)
        real = prepare_real(RealEmbeddings(values.flatten(0, 1), labels.repeat_interleave(m)))
        synthetic = labels.repeat_interleave(n)
        real.block(synthetic, paired=True, distances=True)
        function = lambda: diversity_loss(leaf, synthetic, real, nonnegative=real.nonnegative)  # noqa: E731
    else:
        each = [value.requires_grad_(form == "shipped") for value in values.clone()]
        settings = SimpleNamespace(multiplier=0.1, start_class_id=0, IPC=n, device=device, r_cos=1.0, r_euc=0.01)
        with contextlib.redirect_stdout(None):
            theirs = loss(settings, classes)
        function = lambda: theirs(leaf, each)  # noqa: E731

    def step() -> tuple[Tensor, Tensor]:
        leaf.grad = None
        result = function()
        torch.autograd.backward(result)
        assert leaf.grad is not None
        return result.detach(), leaf.grad

    return step


def interleave(steps: dict[str, Step], rounds: int, device: str) -> dict[str, list[float]]:
    """Return the seconds of each form in each round, after one round that isn't counted."""
    times: dict[str, list[float]] = {form: [] for form in steps}
    for index in range(rounds + 1):
        for form, step in steps.items():
            started = time.perf_counter()
            step()
            if device.startswith("cuda"):
                torch.cuda.synchronize()
            if index:
                times[form].append(time.perf_counter() - started)
    return times


def peak(step: Step, device: str) -> float:
    """Return, in MB, the most that torch holds during one pass beyond what it held before, from its own allocations."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    results: Any = profile.profiler.kineto_results
    events = [event for event in results.events() if event.name() == "[memory]"]
    changes: list[tuple[int, int]] = sorted((event.start_ns(), event.nbytes()) for event in events)
    return max(accumulate(amount for _, amount in changes)) / 1e6


if __name__ == "__main__":
    main()
