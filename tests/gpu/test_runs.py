"""Whole runs on the pretended GPU: every stage works there, and gives what the CPU gives."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.cli import Cli
from support.pretended_gpu import DEVICE, device_present
from support.small_run import only_run, write_recipe

from dire_plug.files import read_json

RUNS: dict[str, tuple[str, ...]] = {
    "dire, two networks, weights that follow gradients, a coreset": (
        *("--dire", "--set", "term.network=several", "--set", "regularizers.dire.weight=auto"),
        *("--set", "real.coreset=4"),
    ),
    "several regularizers, a bank, stored labels": (
        *("--regularizer", "energy=0.1", "--regularizer", "dpp=0.01", "--set", "recover.bank=true"),
        *("--set", "recover.plan.per_class=1", "--set", "evaluate.protocol=fkd", "--set", "evaluate.mixup=0"),
    ),
    "real images": ("--arm", "k-center"),
}


@pytest.mark.parametrize("options", RUNS.values(), ids=RUNS)
def test_a_run_gives_what_the_cpu_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli, options: tuple[str, ...]
) -> None:
    recipe, runs = write_recipe(tmp_path / "tiny.yaml"), {}
    for device in ("cpu", DEVICE):
        home = tmp_path / device.partition(":")[0]
        monkeypatch.setenv("DIRE_PLUG_HOME", str(home))
        with device_present():
            answer = cli("run", "sre2l", "--recipe", recipe, "--engine", "native", "--device", device, *options)
        assert answer.code == 0, answer.err
        runs[device] = only_run(home)
    mine, theirs = (load_file(runs[device] / "images.safetensors") for device in (DEVICE, "cpu"))
    assert mine.keys() == theirs.keys()
    for name in theirs:
        # a chain of rounded steps; what a wrong device, class or row does is larger
        torch.testing.assert_close(mine[name].float(), theirs[name].float(), rtol=1e-3, atol=1e-2)
    found, expected = (read_json(runs[device] / "metrics.json") for device in (DEVICE, "cpu"))
    for space in ("T", "I"):
        mine, theirs = found["diversity"][space], expected["diversity"][space]
        assert mine.pop("real") == pytest.approx(theirs.pop("real"), rel=1e-3)
        assert mine == pytest.approx(theirs, rel=0.05, abs=0.02)
