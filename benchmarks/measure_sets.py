"""Times what `measure` and `evaluate` do with sets of ImageNet's shape, here and in another checkout.

    python benchmarks/measure_sets.py --against CHECKOUT --rounds 5 --threads 1 --json FILE

Everything is generated: random embeddings of 1,000 classes (50 real and 10 condensed images each, 512 wide), and JPEG
files of 500×375 pixels. Each side is a child process that runs this file with the package of its checkout. Rounds run
in turns, so that other load meets both, after one that isn't counted. A child tells wall-clock and CPU seconds of a
case, and the peak of resident memory above that before it; on a GPU (`--device cuda`), the peak of the device's memory.

`--waits` counts instead how often the host would wait for a GPU, and the launches, on the pretended device of the
tests; needs torch 2.10.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import ledger
import numpy as np
import torch
from diversity_loss import processor
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

import dire_plug
from dire_plug.data import Dataset
from dire_plug.data.folders import FolderSplit, list_images, make_folder_split
from dire_plug.metrics import (
    Neighbourhoods,
    class_radii,
    diversity,
    mean_class_vendi,
    per_class_coverage,
)
from dire_plug.metrics import real_reference as reference_of
from dire_plug.models import build
from dire_plug.models.checkpoint import Network
from dire_plug.pipeline import Request
from dire_plug.pipeline.request import plan_run
from dire_plug.stages import student_data
from dire_plug.stages.artefacts import Source
from dire_plug.stages.images import ImageSet
from dire_plug.store.artefacts import Store
from dire_plug.training.transforms import raw_batches

ROOT = Path(__file__).resolve().parents[1]
SETS, PHOTOS = "sets.safetensors", "photos"
SIZE, STUDENTS = 224, 3
WORK = 0.004
"""Seconds that the stand-in for a device works on an image, about as long as two cores decode one."""

Reading = dict[str, Any]


def main() -> None:
    """Print a table, and write it as JSON."""
    options = parse()
    if options.child:
        torch.set_num_threads(options.threads)
        assert Path(dire_plug.__file__).is_relative_to(os.environ["WANTED"]), dire_plug.__file__
        for case in sys.stdin:
            print(json.dumps(CASES[case.strip()](options)), flush=True)
        return
    sides = {"here": ROOT} | ({"before": options.against.resolve()} if options.against else {})
    print(describe(options, sides), flush=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        write_sets(folder / SETS, options)
        names = ["waits"] if options.waits else [case for case in CASES if case != "waits"]
        if "decode" in names:
            write_photos(folder / PHOTOS, options.photos)
        children = {side: start(checkout, folder, options) for side, checkout in sides.items()}
        for case in options.case or names:
            first = {side: ask(one, case) for side, one in children.items()}
            # what a library does once isn't counted, and counts stay the same
            rounds = [{side: ask(one, case) for side, one in children.items()} for _ in range(options.rounds)]
            print(*report(case, [first] if case == "waits" else rounds), sep="\n", flush=True)
            keep(case, [first] if case == "waits" else rounds, options)
        for one in children.values():
            one.communicate()


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--against", type=Path, metavar="CHECKOUT", help="of dire-plug, whose package is the other side"
    )
    parser.add_argument("--case", action="append", choices=list(CASES), help="this case only; may be repeated")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--real", type=int, default=50, help="images of a class")
    parser.add_argument("--ipc", type=int, default=10)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--photos", type=int, default=1000, help="JPEG files that are decoded")
    parser.add_argument("--waits", action="store_true", help="count waits and launches on the pretended device")
    parser.add_argument("--folder", type=Path, help="of temporary files")
    parser.add_argument("--json", type=Path, help="a ledger to add the cases to: see ledger.py")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def describe(options: argparse.Namespace, sides: dict[str, Path]) -> str:
    """Return what the numbers were made with."""
    found = {side: commit(checkout) for side, checkout in sides.items()}
    return (
        f"{processor()}, {len(os.sched_getaffinity(0))} cores, load {os.getloadavg()[0]:.1f}, {options.threads} "
        f"thread(s), {options.device}, torch {torch.__version__}; {options.classes} classes, {options.real} real and "
        f"{options.ipc} condensed images each, {options.width} wide; {options.photos} photos; "
        f"{', '.join(f'{side} {one}' for side, one in found.items())}; median [min–max] of {options.rounds} rounds"
    )


def commit(checkout: Path) -> str:
    """Return the commit of a checkout, or its name."""
    found = subprocess.run(["git", "-C", checkout, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return found.stdout.strip() if found.returncode == 0 else checkout.name


def start(checkout: Path, folder: Path, options: argparse.Namespace) -> subprocess.Popen[str]:
    """Start a child with the package of a checkout."""
    given = [f"--{name}={getattr(options, name)}" for name in ("threads", "device", "classes", "real", "ipc", "width")]
    command = [sys.executable, __file__, *given, "--child", f"--data={folder}"]
    return subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": str(checkout), "WANTED": str(checkout)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def ask(child: subprocess.Popen[str], case: str) -> Reading:
    """Let a child run one case; the other one waits meanwhile."""
    assert child.stdin is not None
    assert child.stdout is not None
    print(case, file=child.stdin, flush=True)
    found: Reading = json.loads(child.stdout.readline())
    return found


def report(case: str, rounds: Sequence[dict[str, Reading]]) -> list[str]:
    """Return the lines of one case: each side's values, and the ratios round by round."""
    lines = []
    for side in rounds[0]:
        values = {name: [one[side][name] for one in rounds] for name in rounds[0][side]}
        lines.append(f"{case:12} {side:7} " + "  ".join(f"{name} {spread(some)}" for name, some in values.items()))
    if len(rounds[0]) == 2:
        shared = [name for name in rounds[0]["here"] if name in rounds[0]["before"]]
        ratios = {name: [one["before"][name] / max(one["here"][name], 1e-9) for one in rounds] for name in shared}
        lines.append(f"{case:12} ratio   " + "  ".join(f"{name} {spread(some)}" for name, some in ratios.items()))
    return lines


def keep(case: str, rounds: Sequence[dict[str, Reading]], options: argparse.Namespace) -> None:
    """Add a case to the ledger."""
    for unit in rounds[0]["here"]:
        sides = {side: [float(one[side][unit]) for one in rounds] for side in reversed(rounds[0])}
        ledger.record(options.json, case, sides, benchmark="measure_sets", unit=unit, device=options.device)


def spread(values: Sequence[float]) -> str:
    """Return median [min–max]."""
    return f"{statistics.median(values):.4g} [{min(values):.4g}–{max(values):.4g}]"


# Sets.


def write_sets(path: Path, options: argparse.Namespace) -> None:
    """Write embeddings as of a network with rectified outputs: classes apart, real and condensed rows of each alike."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(options.classes, options.width, generator=generator)

    def draw(each: int) -> tuple[Tensor, Tensor]:
        labels = torch.arange(options.classes).repeat_interleave(each)
        return (centres[labels] + torch.randn(len(labels), options.width, generator=generator)).relu(), labels

    sets = {"real": draw(options.real), "made": draw(options.ipc), "held_out": draw(options.real)}
    tensors = {name: rows for name, (rows, _) in sets.items()}
    tensors |= {f"{name}.labels": labels for name, (_, labels) in sets.items()}
    # the store keeps radii. Classes are apart, so that those among all are those within classes, which take no minutes
    tensors["radii"] = class_radii(tensors["real"], tensors["real.labels"])
    save_file(tensors, path)


def write_photos(folder: Path, count: int) -> None:
    """Write JPEG files of 500×375 pixels, quality 90, with smooth parts and noise, as photographs have."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    row, column = np.mgrid[0:375, 0:500]
    for number in range(count):
        waves = [127 + 90 * np.sin(column / (9 + number % 17 + own) + row / (23 + own)) for own in range(3)]
        pixels = np.stack(waves, -1) + generator.normal(0, 12, (375, 500, 3))
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number:05}.jpg", quality=90)


# What is timed, in a child.


def watched(call: Callable[[], object], device: str) -> Reading:
    """Return the seconds of a call and the peak of memory."""
    cuda = torch.device(device).type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
    before, wall, cpu = resident(), time.perf_counter(), time.process_time()
    forget_peak()
    call()
    if cuda:
        torch.cuda.synchronize()
    found = {"wall s": time.perf_counter() - wall, "cpu s": time.process_time() - cpu}
    memory = torch.cuda.max_memory_allocated() - held if cuda else peak() - before
    return found | {"peak MB": memory / 1e6}


def resident() -> int:
    """Return the resident memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def forget_peak() -> None:
    """Begin the measurement of the peak anew."""
    Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """Return the largest resident memory since then, in bytes."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def read_sets(options: argparse.Namespace) -> dict[str, Tensor]:
    """Return the sets on the device, and their labels."""
    return {name: tensor.to(options.device) for name, tensor in load_file(options.data / SETS).items()}


def time_class_radii(options: argparse.Namespace) -> Reading:
    """Time the radii within classes."""
    sets = read_sets(options)
    return watched(lambda: class_radii(sets["real"], sets["real.labels"]), options.device)


def time_class_coverage(options: argparse.Namespace) -> Reading:
    """Time the coverage within classes, their radii kept."""
    sets = read_sets(options)
    given = (sets["real"], sets["real.labels"], sets["made"], sets["made.labels"])
    return watched(lambda: per_class_coverage(*given, radii=sets["radii"]), options.device)


def time_class_vendi(options: argparse.Namespace) -> Reading:
    """Time the Vendi score within classes."""
    sets = read_sets(options)
    return watched(lambda: mean_class_vendi(sets["made"], sets["made.labels"]), options.device)


def neighbourhoods(sets: dict[str, Tensor]) -> Neighbourhoods:
    """Return the real rows with their radii, as the store keeps them."""
    return Neighbourhoods(sets["real"], sets["real.labels"], 5, sets["radii"], sets["radii"])


def time_diversity(options: argparse.Namespace) -> Reading:
    """Time all metrics of the condensed set, radii kept."""
    sets = read_sets(options)
    near = neighbourhoods(sets)
    return watched(lambda: diversity(near, sets["made"], sets["made.labels"]), options.device)


def time_decode(options: argparse.Namespace) -> Reading:
    """Time one pass over the photos beside a device that needs `WORK` for each; the host sleeps meanwhile."""
    split = photos(options)

    def run() -> None:
        for images, _ in raw_batches(split, device=torch.device(options.device)):
            time.sleep(len(images) * WORK)

    return watched(run, options.device)


def time_tests(options: argparse.Namespace) -> Reading:
    """Time what the test sets of several students take, too large for the device: each is made and read once."""
    split = photos(options)
    data = Dataset("generated", split, split, ("photo",), size=SIZE, digest="generated")
    run = replace(plan_run(Request("sre2l", device=options.device, arm="random")), data=data)
    network = Network(build("resnet-small", outputs=10), "resnet-small", 10, "small", (0.5,) * 3, (0.5,) * 3)
    few = split.images(torch.arange(2)), torch.zeros(2, dtype=torch.int64)
    images = ImageSet(Source(digest="generated"), lambda: few, name="generated")
    student_data.MOST_FLOAT_BYTES = 0

    def build_all() -> None:
        with tempfile.TemporaryDirectory(dir=options.data) as store:
            for _ in range(STUDENTS):
                # a store of its own: each student is a process, which hashes what it reuses
                one = replace(run, own_store=Store(Path(store)))
                made = student_data.build_student_data(one, run.recipe.evaluate, network, images)
                for part in torch.split(made.test_images, 500):
                    int(part.sum())

    return watched(build_all, options.device)


def photos(options: argparse.Namespace) -> FolderSplit:
    """Return the photos as a split that is read on demand."""
    folder = options.data / PHOTOS
    return make_folder_split(folder, list_images(folder, 0), size=SIZE)


def count_waits(options: argparse.Namespace) -> Reading:
    """Count waits and launches."""
    sys.path.insert(0, str(ROOT / "tests"))
    from support.pretended_gpu import counted, device_present, put, register

    sets = load_file(options.data / SETS)
    found: Reading = {}
    register()
    with device_present():
        on_device = {name: put(tensor) for name, tensor in sets.items()}
        with counted() as counts:
            near = Neighbourhoods.of(on_device["real"], on_device["real.labels"])
        found |= {"radii waits": counts.waits.total(), "radii launches": counts.launches.total()}
        with counted() as counts:
            diversity(near, on_device["made"], on_device["made.labels"])
        found |= {"diversity waits": counts.waits.total(), "diversity launches": counts.launches.total()}
        with counted() as counts:
            reference_of(near, on_device["held_out"], on_device["held_out.labels"], ipc=options.ipc, seed=0, draws=5)
        return found | {"reference waits": counts.waits.total(), "reference launches": counts.launches.total()}


CASES: dict[str, Callable[[argparse.Namespace], Reading]] = {
    "class-radii": time_class_radii,
    "class-coverage": time_class_coverage,
    "class-vendi": time_class_vendi,
    "diversity": time_diversity,
    "decode": time_decode,
    "tests": time_tests,
    "waits": count_waits,
}
"""Name → what runs in a child."""

if __name__ == "__main__":
    main()
