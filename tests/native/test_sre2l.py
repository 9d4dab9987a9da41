"""The native loop: it repeats itself, equals upstream's script bit for bit, and a stored run where upstream isn't.

`python tests/native/test_sre2l.py` makes the stored run, tests/golden/sre2l_native.safetensors, again.
"""

import random
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch
from safetensors.torch import load_file, save
from support.cli import Cli
from support.paths import GOLDEN
from support.small_run import run_folders, write_recipe
from support.upstreams import vendor_or_skip
from torch import Tensor, nn

from dire_plug.files import read_json, write_atomically
from dire_plug.methods.sre2l import SRe2L
from dire_plug.native import load_native
from dire_plug.native.sre2l import Settings, recover_pass
from dire_plug.seeding import seed_everything
from dire_plug.synthesis import RunningSynthesis

GOLDEN = GOLDEN / "sre2l_native.safetensors"
TOLERANCE = 1e-9
"""Of pixels in [0, 1], in float64: another machine sums in another order, which changes the last bits (1e-16 of a
value); twenty steps of Adam, which divides by the size of the gradient, may make some 1e-12 of that. A change of the
mathematics moves pixels by 1e-3 and more."""
SETTINGS = Settings(
    batch_size=3,
    iteration=20,
    lr=0.1,
    jitter=2,
    r_bn=0.1,
    first_bn_multiplier=10.0,
    classes=5,
    size=8,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2023, 0.1994, 0.2010),
)


class PlainSynthesis:
    """A synthesis without plugins: everything stays as the loop has it."""

    pass_index = 2

    def watch(self, network: nn.Module) -> None:
        pass

    def labels(self, labels: Tensor) -> Tensor:
        return labels

    def start(self, images: Tensor, labels: Tensor) -> Tensor:
        return images

    def steps_to_do(self, count: int) -> int:
        return count

    def loss(self, loss: Tensor, **of_the_step: object) -> Tensor:
        return loss

    def step_done(self, loss: Tensor, **of_the_step: object) -> None:
        pass

    def image_index(self, index: int, position: int) -> int:
        return index


def make_teacher() -> nn.Module:
    """Return a small network with batch normalisation, whose weights are written down here and drawn nowhere."""
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )
    state = network.state_dict()
    for number, (name, tensor) in enumerate(state.items()):
        if tensor.is_floating_point():
            waves = torch.arange(tensor.numel(), dtype=tensor.dtype).mul(1.7).add(number).cos().reshape(tensor.shape)
            state[name] = waves.abs() + 0.5 if "var" in name else waves / 2
    network.load_state_dict(state)
    return network.eval().requires_grad_(False)


def run_golden() -> dict[str, Tensor]:
    """Return a pass of the native loop in float64: images [5, 3, 8, 8] in [0, 1], labels and numbers [5]."""
    kept = torch.get_default_dtype(), torch.get_rng_state(), random.getstate()
    torch.set_default_dtype(torch.float64)
    try:
        seed_everything(7, 2)
        slots = list(recover_pass(cast(RunningSynthesis, PlainSynthesis()), make_teacher(), SETTINGS))
    finally:
        torch.set_default_dtype(kept[0])
        torch.set_rng_state(kept[1])
        random.setstate(kept[2])
    return {
        "images": torch.cat([images for images, _, _ in slots]),
        "labels": torch.tensor([label for _, labels, _ in slots for label in labels]),
        "numbers": torch.tensor([number for _, _, numbers in slots for number in numbers]),
    }


def test_the_native_loop_repeats_itself_bit_for_bit() -> None:
    first, second = run_golden(), run_golden()
    assert torch.equal(first["images"], second["images"])


def test_the_native_loop_equals_the_stored_run() -> None:
    found, stored = run_golden(), load_file(GOLDEN)
    assert found["labels"].tolist() == stored["labels"].tolist() == [0, 1, 2, 3, 4]
    assert found["numbers"].tolist() == stored["numbers"].tolist() == [2] * 5
    assert found["images"].dtype == torch.float64
    assert (found["images"] - stored["images"]).abs().max() <= TOLERANCE


def test_the_stored_run_tells_a_change_of_the_mathematics(monkeypatch: pytest.MonkeyPatch) -> None:
    stored = load_file(GOLDEN)["images"]
    changes = replace(SETTINGS, r_bn=0.101), replace(SETTINGS, first_bn_multiplier=9.9), replace(SETTINGS, lr=0.0999)
    for change in changes:
        monkeypatch.setitem(globals(), "SETTINGS", change)
        assert (run_golden()["images"] - stored).abs().max() > 1e5 * TOLERANCE, change


def test_the_stored_run_did_something() -> None:
    images = load_file(GOLDEN)["images"]
    assert 0 <= images.min() < images.max() <= 1
    assert images.std() > 0.05
    assert GOLDEN.stat().st_size <= 50_000


def test_every_method_with_a_native_loop_has_its_module() -> None:
    adapter = SRe2L()
    native = load_native(adapter.name)
    known = [name for name in adapter.scripts if adapter.has_native(name)]
    assert known
    for name in known:
        flags = adapter.flags_model(name)().model_dump(by_alias=True)
        assert native.read_settings(adapter.scripts[name], flags).iteration == flags["iteration"]


# Beside upstream's own script.


@pytest.fixture(scope="module")
def vendored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of SRe2L's own code."""
    folder = tmp_path_factory.mktemp("upstream")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIRE_PLUG_HOME", str(folder))
        vendor_or_skip(SRe2L())
    return folder / "third_party"


@pytest.mark.slow
@pytest.mark.upstream
@pytest.mark.parametrize("arm", ["baseline", "dire"])
def test_after_twenty_steps_native_and_upstream_have_the_same_bits(
    cli: Cli, home: Path, vendored: Path, tmp_path: Path, arm: str
) -> None:
    (home / "third_party").symlink_to(vendored, target_is_directory=True)
    recipe = write_recipe(tmp_path / "twenty.yaml", {"recover": {"flags": {"iteration": 20}}})
    for engine in ("native", "upstream"):
        answer = cli("run", "sre2l", "--recipe", recipe, "--engine", engine, "--arm", arm)
        assert answer.code == 0, answer.err
    runs = {read_json(folder / "metrics.json")["engine"]: folder for folder in run_folders(home)}
    assert sorted(runs) == ["native", "upstream"]
    native, upstream = (load_file(runs[engine] / "images.safetensors") for engine in ("native", "upstream"))
    assert native["images"].shape == (20, 3, 8, 8)
    assert all(torch.equal(native[name], upstream[name]) for name in ("images", "labels", "numbers"))
    for path in sorted((runs["native"] / "images").rglob("*.jpg")):
        other = runs["upstream"] / path.relative_to(runs["native"])
        assert path.read_bytes() == other.read_bytes(), path.name


if __name__ == "__main__":
    write_atomically(GOLDEN, save(run_golden()))
