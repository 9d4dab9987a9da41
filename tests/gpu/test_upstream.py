"""Upstream's published scripts on the pretended GPU, where it can stand in for CUDA: the CPU's bits.

The child's code runs in this process, which alone knows the device; for the CPU in a child.
"""

from contextlib import chdir
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from support.loop_upstream import in_this_process
from support.pretended_gpu import DEVICE, Counts, counted, device_present
from support.upstreams import vendor_or_skip
from torch import Tensor

from dire_plug.models import last_linear
from dire_plug.plugins import load_adapter
from dire_plug.upstream import child
from dire_plug.upstream.runner import run_alone, run_child
from dire_plug.upstream.source.vendor import vendor
from dire_plug.upstream.verify import runs

STEPS = 6
METHODS = ("sre2l", "cda", "dwa", "infer", "delt", "g-vbsm")
"""Not those of MTT and DM: they ask `torch.cuda.is_available`, which no pretended device answers."""


def run(device: str, setup: runs.Setup, tree: Path, folder: Path) -> tuple[runs.RunHashes, Counts]:
    """Return what a few steps with DiRe left, and all that they counted."""
    folder.mkdir()
    real = {}
    labels = torch.arange(setup.inputs.classes).repeat_interleave(4)
    for key, network in setup.script_inputs.teachers.items():
        width = last_linear(network.model).in_features
        values = torch.randn(len(labels), width, generator=torch.Generator().manual_seed(1)).abs()
        save_file({"values": values, "labels": labels}, folder / f"real-{key}.safetensors")
        real[key] = str(folder / f"real-{key}.safetensors")
    job = runs.write_job(setup, folder, tree, regularizers={"dire": {}})
    synthesis = {**(job.synthesis or {}), "real": real, "device": device}
    job = replace(job, device=device, synthesis=synthesis, stop_after_steps=STEPS, threads=1)
    with counted() as counts:
        if device == "cpu":
            run_child(job, log=folder / "log.txt", on_event=lambda event: None)
        else:
            (folder / "cwd").mkdir()
            with in_this_process(), chdir(folder / "cwd"):
                child.run_job(job, lambda event: None)
    return runs.read_hashes(folder), counts


@pytest.fixture
def resized_as_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the device resize by the CPU's formula.

    With deterministic algorithms torch has another one for any device but the CPU, whose gradient is summed in another
    order: that of the statistics that G-VBSM resizes to compare them.
    """
    resize = F.interpolate

    def interpolate(images: Tensor, *given: Any, **more: Any) -> Tensor:
        if len(given) > 1 or more.get("mode") != "bilinear" or more.get("antialias"):
            resized: Tensor = resize(images, *given, **more)
        else:
            size, aligned = given[0] if given else more["size"], bool(more.get("align_corners"))
            resized = torch.ops.aten.upsample_bilinear2d(images, size, aligned)
        return resized

    monkeypatch.setattr(F, "interpolate", interpolate)


# of upstream's code, about its libraries
@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
@pytest.mark.upstream
@pytest.mark.usefixtures("resized_as_on_the_cpu")
@pytest.mark.parametrize("method", METHODS)
def test_a_published_script_gives_the_bits_of_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    monkeypatch.setenv("DIRE_PLUG_HOME", str(tmp_path / "home"))
    adapter = load_adapter(method)
    vendor_or_skip(adapter)
    setup = runs.set_up(adapter, next(iter(adapter.scripts)), tmp_path, run=run_alone)
    tree = vendor(adapter)
    expected, _ = run("cpu", setup, tree, tmp_path / "cpu")
    with device_present():
        found, counts = run(DEVICE, setup, tree, tmp_path / "gpu")
    assert found.steps == expected.steps
    assert counts.launches.total() > 1000
