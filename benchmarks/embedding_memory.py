"""Measures the host memory that embedding a large dataset takes, beside the size of what it leaves.

    python benchmarks/embedding_memory.py --rows 200000 --width 2048

The stage `embed` runs in a child process of its own, on a generated dataset whose labels come in random order, with a
stand-in for a network that takes next to no time. Memory is resident memory above that of the process before the stage
began, so it counts what the process has mapped of files too.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diversity_loss import processor
from torch import Tensor

from dire_plug.data import Dataset
from dire_plug.models.pretrained import Pretrained
from dire_plug.pipeline import Request
from dire_plug.pipeline.request import plan_run
from dire_plug.stages.embed import make_embeddings
from dire_plug.store.artefacts import Store

CLASSES, SIDE = 1000, 8


@dataclass(frozen=True, eq=False)
class GeneratedSplit:
    """Images that are drawn when they are asked for, by their number."""

    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def images(self, indices: Tensor | None = None) -> Tensor:
        """Return the images at `indices`: uint8, [n, 3, 8, 8]."""
        chosen = torch.arange(len(self)) if indices is None else indices
        pixels = chosen[:, None] * 7 + torch.arange(3 * SIDE * SIDE)
        return (pixels % 251).to(torch.uint8).view(-1, 3, SIDE, SIDE)


def main() -> None:
    """Print the peak of the stage, in the size of its result."""
    options = parse()
    if options.child is not None:
        print(json.dumps(watch(options.rows, options.width, Path(options.child))))
        return
    print(f"{processor()}; torch {torch.__version__}; {options.rows} × {options.width}, {options.threads} thread(s)")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        sizes = [f"--{name}={getattr(options, name)}" for name in ("rows", "width", "threads")]
        command = [sys.executable, __file__, *sizes, "--child", folder]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    result, peak = found["result"] / 1e6, found["peak"] / 1e6
    print(
        f"result {result:.0f} MB; peak above {found['before'] / 1e6:.0f} MB: {peak:.0f} MB, {peak / result:.2f} times"
    )
    print(f"{found['seconds']:.1f} s wall-clock")


def watch(rows: int, width: int, folder: Path) -> dict[str, float]:
    """Embed in this process; return {"result", "before", "peak"} in bytes, and "seconds"."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, CLASSES, (rows,), generator=generator)
    train, names = GeneratedSplit(labels), tuple(map(str, range(CLASSES)))
    data = Dataset("generated", train, GeneratedSplit(labels[:CLASSES]), names, size=SIDE, digest="generated")
    weights = torch.rand(3 * SIDE * SIDE, width, generator=generator)
    network = Pretrained("stand-in", "none", width, lambda images: images.flatten(1).float() @ weights)
    run = plan_run(Request("sre2l", device="cpu", arm="random"))
    run = replace(run, data=data, own_store=Store(folder / "store"))
    network.embed(train.images(torch.arange(500)))  # what a library allocates once isn't the stage's
    _forget_peak()
    before, began = resident(), time.monotonic()
    file = make_embeddings(run, network)
    peak = _peak() - before
    seconds = time.monotonic() - began
    return {"result": file.stat().st_size, "before": before, "peak": peak, "seconds": seconds}


def resident() -> int:
    """Return the resident memory of this process in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _forget_peak() -> None:
    """Begin the measurement of the peak anew: getrusage's would be that of the process that started this one."""
    Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    """Return the largest resident memory since then, in bytes."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where the result lies while it is measured; not a tmpfs")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    return options


if __name__ == "__main__":
    main()
