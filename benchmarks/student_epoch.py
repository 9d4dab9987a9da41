"""Measures an epoch of a student: this checkout beside another one, with a test after each epoch or without, or `fast`.

    python benchmarks/student_epoch.py --against ../before --json ledger.json
    python benchmarks/student_epoch.py --accelerate
    python benchmarks/student_epoch.py --architecture convnet-3 --images 100 --augmentation resized_crop_flip
    python benchmarks/student_epoch.py --device cuda --images 1000 --architecture resnet-18 --rounds 30

Each side is a process that trains one student of generated images under `on-the-fly` with an untrained teacher, and
stops after every epoch until it is told to go on: the sides take turns epoch by epoch, and the first isn't counted. An
epoch ends when its loss is known on the host. Both sides see the same images and draw the same numbers; the losses of
their last epochs are printed, since on the CPU they must be equal, but under `--accelerate fast`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
CLOCKS = {"wall": "s, wall-clock", "cpu": "s of the processor"}


def main() -> None:
    """Let the sides take turns; print the median of each and the ratio to the first."""
    options = parse()
    if options.child:
        train(options)
        return
    import ledger

    if options.against is not None:
        sides = {"before": (options.against, "untested"), "now": (ROOT, "untested")}
    elif options.accelerate:
        sides = {"none": (ROOT, "untested"), "fast": (ROOT, "fast")}
    else:
        sides = {"tested": (ROOT, "tested"), "not tested": (ROOT, "untested")}
    children = {name: start(checkout, kind) for name, (checkout, kind) in sides.items()}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in children}
    for turn in range(options.rounds + 1):
        # who comes first changes, so that neither always finds the caches of the other
        for name in list(children)[:: 1 if turn % 2 else -1]:
            found[name].append(take_turn(children[name]))
    for child in children.values():
        child.communicate()
    losses = ", ".join(f"{name} {epochs[-1]['loss']:.9g}" for name, epochs in found.items())
    case = f"{options.architecture}, {options.images} images of {options.size} px, {options.augmentation}"
    for clock, unit in CLOCKS.items():
        values = {name: [epoch[clock] for epoch in epochs[1:]] for name, epochs in found.items()}
        first = next(iter(values))
        for name, seconds in values.items():
            ratio = statistics.median(a / b for a, b in zip(seconds, values[first], strict=True))
            print(f"{case}: {name}: {ledger.spread(seconds)} {unit}, n = {len(seconds)}; / {first}: {ratio:.3f}")
        file, remark = options.json, f"last losses: {losses}"
        ledger.record(
            file, f"{case}, {clock}", values, benchmark="student_epoch", unit=unit, device=options.device, remark=remark
        )
    print(f"last losses: {losses}")


def parse() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    beside = parser.add_mutually_exclusive_group()
    beside.add_argument("--against", type=Path, help="another checkout of this project")
    beside.add_argument("--accelerate", action="store_true", help="under --accelerate fast beside none")
    parser.add_argument("--architecture", default="resnet-18")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--tests", type=int, default=1000, help="test images")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument(
        "--augmentation", default="crop_flip", choices=("none", "crop", "crop_flip", "resized_crop_flip")
    )
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="the ledger to which the cases are added")
    parser.add_argument("--child", choices=("tested", "untested", "fast"), help=argparse.SUPPRESS)
    return parser.parse_args()


def start(checkout: Path, kind: str) -> subprocess.Popen[str]:
    """Start the process of a side, which runs the code of a checkout."""
    command = [sys.executable, __file__, *sys.argv[1:], "--child", kind]
    environment = {**os.environ, "PYTHONPATH": str(checkout.resolve()), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def take_turn(child: subprocess.Popen[str]) -> dict[str, float]:
    """Let a side train one epoch; return its seconds, and its loss."""
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write("go on\n")
    child.stdin.flush()
    if not (line := child.stdout.readline()):
        raise SystemExit(f"a side ended with exit code {child.wait()}; see above")
    found: dict[str, float] = json.loads(line)
    return found


def train(options: argparse.Namespace) -> None:
    """Train a student, an epoch for each line of the input; print seconds and loss of each."""
    from dire_plug.models import build
    from dire_plug.recipe.evaluate import OnTheFlySection
    from dire_plug.training.loop import initialised
    from dire_plug.training.protocols import train_student
    from dire_plug.training.students import StudentData
    from dire_plug.training.transforms import eval_transform, mixing, train_transform

    generator = torch.Generator().manual_seed(0)
    shape, classes = (3, options.size, options.size), 10
    pixels = torch.randint(0, 256, (options.images + options.tests, *shape), generator=generator).to(torch.uint8)
    labels = torch.arange(len(pixels)) % classes
    device, network = torch.device(options.device), SimpleNamespace(mean=(0.5,) * 3, std=(0.25,) * 3)
    plain: Any = eval_transform(network)  # type: ignore[arg-type]
    data = StudentData(
        pixels[: options.images],
        labels[: options.images],
        train_transform(network, augmentation=options.augmentation, padding=4),  # type: ignore[arg-type]
        plain(pixels[options.images :].to(device)),
        labels[options.images :],
        mix=mixing(mixup_alpha=0.8),
    )
    section = OnTheFlySection(
        protocol="on-the-fly",
        students=("x",),
        epochs=options.rounds + 1,
        batch_size=options.batch,
        test_from=0 if options.child == "tested" else options.rounds,
        test_every=1,
    )

    def make(seed: int) -> torch.nn.Module:
        # a ConvNet is made for its size
        return initialised(lambda: build(options.architecture, outputs=classes, stem="small", size=options.size), seed)

    began = (0.0, 0.0)

    def wait(done: int, *, loss: float, **_: float) -> None:
        nonlocal began
        if done:
            seconds = {"wall": time.perf_counter() - began[0], "cpu": time.process_time() - began[1]}
            print(json.dumps({**seconds, "loss": loss}), flush=True)
        if done <= options.rounds:
            sys.stdin.readline()
            began = time.perf_counter(), time.process_time()

    with tempfile.TemporaryDirectory() as folder:
        student, teacher = make(1).to(device), make(2).to(device).eval()
        if options.child == "fast":
            # imported here: a checkout to compare with may lack it
            from dire_plug.acceleration import TRAINED, accelerate_network, find_missing, resolve

            components = resolve(TRAINED, find_missing(device))
            print(f"fast: {components}", file=sys.stderr)
            student, teacher = (accelerate_network(network, components, device) for network in (student, teacher))
        wait(0, loss=0)
        train_student(student, [teacher], data=data, section=section, seed=0, folder=Path(folder), progress=wait)


if __name__ == "__main__":
    main()
