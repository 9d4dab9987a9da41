"""Rates at which convolutional networks train, for estimates: those of named GPUs as published, and this machine's.

A GPU's rate is what it sustains, not its peak: the images a second at which it was seen to train ResNet-50, times the
operations of an image. This machine's rate is measured when its user says so, and kept, so that an estimate doesn't
depend on what else runs when it is asked for.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch

from dire_plug import home
from dire_plug.errors import DirePlugError, nearest
from dire_plug.files import format_duration, make_folder, read_json, write_json
from dire_plug.pipeline.network_costs import build_for, count_pass
from dire_plug.store.provenance import hardware
from dire_plug.store.runs import choose_device

GB = 10**9
RESNET_50 = 24.5e9
"""Operations of training on one image: three times a forward pass of ResNet-50 at 224 pixels (`count_pass`)."""
THROUGHPUT = "https://github.com/lambdal/deeplearning-benchmark"
"""Training of ResNet-50 by NVIDIA's PyTorch example in NVIDIA's containers, on one GPU, in images a second: the column
resnet50 of pytorch/pytorch-train-throughput-fp32.csv (TF32 where the GPU has it, torch's default in convolutions) and
-fp16.csv (automatic mixed precision), at commit 0551cb7."""


@dataclass(frozen=True)
class Card:
    """A GPU as its source describes it.

    Attributes:
        name: as the source has it.
        memory: bytes.
        images: of ResNet-50's training, in a second, in torch's default precision.
        mixed: the same in automatic mixed precision.
        precision: of convolutions by torch's defaults.
        source: an address.
    """

    name: str
    memory: int
    images: float
    mixed: float
    precision: str = "TF32"
    source: str = THROUGHPUT


CARDS: Mapping[str, Card] = MappingProxyType(
    {
        "h100": Card("1CC H100 80GB SXM5", 80 * GB, 1898, 2791),
        "h100-pcie": Card("H100 80GB PCIe Gen5", 80 * GB, 1197, 1866),
        "a100": Card("A100 80GB SXM4", 80 * GB, 1066, 1582),
        "a100-40gb": Card("LambdaCloud A100 40GB PCIe", 40 * GB, 882, 1396),
        # NVIDIA saw 367 and 1,200: github.com/NVIDIA/DeepLearningExamples, PyTorch, resnet50v1.5
        "v100": Card("LambdaCloud V100 16GB", 16 * GB, 369, 833, "float32"),
        "rtx-4090": Card("RTX 4090", 24 * GB, 721, 1301),
        "rtx-3090": Card("RTX 3090", 24 * GB, 513, 905),
        "rtx-a6000": Card("RTX A6000", 48 * GB, 514, 916),
    }
)
"""`--card` → a GPU."""

FILE = "rates.json"
"""In the store: device, torch's version and threads → the rate that was measured, and when."""
NETWORK: Mapping[str, Any] = MappingProxyType(
    {"architecture": "resnet-18", "outputs": 100, "stem": "small", "size": 32}
)
"""What is trained to measure a rate, as `count_pass` takes it."""
IMAGES = {"cpu": 8, "cuda": 256}
"""In a measured step."""
STEPS = 5
"""After one that isn't counted; the fastest counts, since what else runs on a machine only slows a step down."""


@dataclass(frozen=True)
class Rate:
    """A rate for estimates.

    Attributes:
        operations: of convolutions and products, in a second; 0 where the rate isn't known.
        what: the device, in words.
        because: where the rate comes from.
        memory: bytes of the GPU; None where it is no GPU, or unknown.
        mixed: how many times faster automatic mixed precision was seen to be; None where that wasn't measured.
    """

    operations: float
    what: str
    because: str
    memory: int | None = None
    mixed: float | None = None

    def time(self, operations: float) -> str:
        """Return how long operations take, for people."""
        return format_duration(operations / self.operations) if self.operations else "–"

    def describe(self) -> str:
        """Return a line on it."""
        if not self.operations:
            return f"no time of {self.what}: {self.because}"
        return f"time of {self.what} at {self.operations / 1e12:.3g} TFLOP/s, {self.because}"


def find_rate(card: str | None, *, device: str = "auto") -> Rate:
    """Return the rate of a named GPU, or of `device` on this machine as it is kept; nothing is measured.

    Raises:
        DirePlugError: no such GPU.
    """
    if card is None:
        unknown = (
            "its rate wasn't measured yet; do that once, dire-plug doctor --measure-rate, or name a GPU: --card h100"
        )
        return find_kept(device) or Rate(0, "this machine", unknown)
    if (found := CARDS.get(card)) is None:
        raise DirePlugError(
            f"--card {card}: its rate isn't known{nearest(card, CARDS)}; one of {', '.join(CARDS)}, or leave it out "
            "on a machine with that GPU"
        )
    because = f"sustained in training ResNet-50 in {found.precision} (published: {found.source})"
    return Rate(found.images * RESNET_50, f"one {card}", because, found.memory, found.mixed / found.images)


def find_kept(device: str = "auto") -> Rate | None:
    """Return the rate of a device of this machine as it was measured and kept; None where it wasn't."""
    chosen, key = _identify(device)
    kept = _read().get(key)
    if kept is None:
        return None
    total = torch.cuda.get_device_properties(chosen).total_memory if chosen.type == "cuda" else None
    because = f"measured on {kept['measured']} and kept (again: dire-plug doctor --measure-rate)"
    return Rate(float(kept["operations"]), f"this machine ({key})", because, total)


def measure_rate(device: str = "auto") -> Rate:
    """Measure the rate of a device of this machine, and keep it instead of an earlier one."""
    chosen, key = _identify(device)
    measured = {"operations": _measure(chosen), "measured": datetime.date.today().isoformat()}
    make_folder(home.store())
    write_json(home.store() / FILE, {**_read(), key: measured})
    found = find_kept(device)
    assert found is not None, "the rate was kept a moment ago"
    return found


def _identify(device: str) -> tuple[torch.device, str]:
    """Return the device that is measured, and what it is kept by: its name, the threads of a CPU, torch's version."""
    chosen = torch.device(choose_device(device))
    if chosen.type not in IMAGES:
        chosen = torch.device("cpu")
    about = hardware(str(chosen))
    threads = f"{about['threads']} thread{'' if about['threads'] == 1 else 's'}"
    name = about["card"] or f"{about['processor']}, {threads}"
    return chosen, f"{name}, torch {torch.__version__}"


def _read() -> dict[str, Any]:
    file = home.store() / FILE
    found: dict[str, Any] = read_json(file) if file.is_file() else {}
    return found


def _measure(device: torch.device) -> float:
    """Return the operations in a second of a training step."""
    count, size = IMAGES[device.type], NETWORK["size"]
    model = build_for(**NETWORK, flat=True).to(device)
    images = torch.rand(count, 3, size, size, device=device)

    def step() -> float:
        started = time.perf_counter()
        model.zero_grad()
        model(images).sum().backward()
        if images.is_cuda:
            torch.cuda.synchronize(device)
        return time.perf_counter() - started

    step()  # the first one allocates memory and chooses kernels
    return count * count_pass(**NETWORK).both / min(step() for _ in range(STEPS))
