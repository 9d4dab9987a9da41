"""Runs `measure` and `evaluate` as a user does, on generated files in ImageNet-1K's layout: 1,000 classes, 224 pixels.

    python benchmarks/imagenet_shaped.py --threads 1

Everything is generated: JPEG files of 500×375 pixels (six training images of each class, as many as `nearest_k` needs,
and one test image), a condensed set of one image of each class, and a ResNet-18 of random weights that labels and
embeds. So accuracies are those of chance; time and memory are not: each command's wall-clock and CPU seconds, and the
peak of its resident memory. The second `evaluate`, of another seed, finds the decoded test set in the store.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from diversity_loss import processor
from measure_sets import ROOT, commit
from PIL import Image

from dire_plug.models import build

CLASSES, HEIGHT, WIDTH, SIZE = 1000, 375, 500, 224
TRAIN, TEST = 6, 1
"""Images of a class."""


def main() -> None:
    """Print a line for each command."""
    options = parse()
    print(
        f"{processor()}, {options.threads} thread(s), load {os.getloadavg()[0]:.1f}, torch {torch.__version__}, "
        f"commit {commit(ROOT)}; {CLASSES:,} classes, {TRAIN} training images and {TEST} test image each, IPC 1, "
        f"{SIZE} pixels, ResNet-18, {options.epochs} epochs",
        flush=True,
    )
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        write_files(folder)
        for command in commands(folder, options):
            print(measure_command(command, folder, options), flush=True)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--epochs", type=int, default=2, help="of the student")
    parser.add_argument("--folder", type=Path, help="of temporary files")
    return parser.parse_args()


def write_files(folder: Path) -> None:
    """Write the dataset, the condensed set, and the network's weights."""
    torch.manual_seed(0)
    torch.save(build("resnet-18", outputs=CLASSES, stem="imagenet").state_dict(), folder / "network.pth")
    jobs = [(folder / "condensed" / f"new{label:03}" / "0.jpg", label, SIZE, SIZE) for label in range(CLASSES)]
    for part, each in (("train", TRAIN), ("val", TEST)):
        for label in range(CLASSES):
            own = folder / "imagenet-1k" / part / f"n{label:08}"
            jobs += [(own / f"{part}_{number}.JPEG", label, HEIGHT, WIDTH) for number in range(each)]
    # encoding releases the interpreter's lock
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        list(pool.map(lambda job: write_photo(*job), jobs))


def write_photo(path: Path, label: int, height: int, width: int) -> None:
    """Write a JPEG file of smooth waves, which follow from the class, and noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(list(str(path).encode()))
    row, column = np.mgrid[0:height, 0:width]
    waves = [127 + 90 * np.sin(column / (9 + label % 17 + own) + row / (23 + label % 13 + own)) for own in range(3)]
    pixels = np.stack(waves, -1) + generator.normal(0, 12, (height, width, 3))
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path, quality=90)


def commands(folder: Path, options: argparse.Namespace) -> list[list[str]]:
    """Return the command lines, after `dire-plug`."""
    weights = folder / "network.pth"
    given = [
        *("--real", "imagenet-1k", "--recipe", "sre2l/imagenet-1k", "--data-root", str(folder)),
        *("--teacher", str(weights), "--device", options.device),
        *("--set", "squeeze.independent.architecture=resnet-18"),
        *("--set", f"squeeze.independent.checkpoint={weights}"),
    ]
    students = ["--student", "resnet-18", "--per-set", "1", "--epochs", str(options.epochs)]
    evaluate = ["evaluate", str(folder / "condensed"), *given, *students]
    return [["measure", str(folder / "condensed"), *given], evaluate, [*evaluate, "--seed", "1"]]


def measure_command(command: Sequence[str], folder: Path, options: argparse.Namespace) -> str:
    """Run a command; return its seconds and its peak of resident memory."""
    environment = {**os.environ, "DIRE_PLUG_HOME": str(folder / "home"), "OMP_NUM_THREADS": str(options.threads)}
    begun = time.perf_counter()
    child = subprocess.Popen([sys.executable, "-m", "dire_plug", *command], env=environment, cwd=ROOT)
    _, status, used = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"{' '.join(command)}: ended with {os.waitstatus_to_exitcode(status)}")
    wall = time.perf_counter() - begun
    cpu = used.ru_utime + used.ru_stime
    return f"{command[0]:9} wall {wall:.0f} s  CPU {cpu:.0f} s  peak {used.ru_maxrss * 1024 / 1e6:.0f} MB"


if __name__ == "__main__":
    main()
