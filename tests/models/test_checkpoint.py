"""Networks on disk: our own format, others' layouts, refusals."""

import argparse
import json
from pathlib import Path
from typing import Any, get_args

import pytest
import safetensors.torch
import torch
from torch import nn

from dire_plug.errors import DirePlugError
from dire_plug.models import build
from dire_plug.models.checkpoint import Network, load, read_foreign, save, write_for_upstream
from dire_plug.types import CheckpointLayout

CPU = torch.device("cpu")
STATISTICS = ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def make_network(architecture: str = "resnet-small", *, size: int | None = None) -> Network:
    model = build(architecture, outputs=10, size=size)
    with torch.no_grad():
        for buffer in model.buffers():
            buffer.add_(2)
    return Network(model, architecture, 10, "small", *STATISTICS)


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize(
    ("architecture", "size"), [("resnet-small", None), ("resnet-18", None), ("convnet-small", None), ("convnet-3", 32)]
)
def test_a_saved_network_comes_back_whole(tmp_path: Path, architecture: str, size: int | None) -> None:
    network = make_network(architecture, size=size)
    save(tmp_path / "x.safetensors", network)
    found = load(tmp_path / "x.safetensors", CPU)
    assert same(found.model.state_dict(), network.model.state_dict())
    assert (found.architecture, found.outputs, found.stem, found.mean, found.std) == (
        architecture,
        10,
        "small",
        *STATISTICS,
    )
    assert not found.model.training


def test_saving_and_loading_leave_the_random_state_of_saving_alone(tmp_path: Path) -> None:
    network = make_network()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    save(tmp_path / "x.safetensors", network)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_stem_is_kept_with_the_checkpoint(tmp_path: Path) -> None:
    for stem in ("small", "imagenet"):
        save(tmp_path / stem, Network(build("resnet-18", outputs=10, stem=stem), "resnet-18", 10, stem, *STATISTICS))
        assert load(tmp_path / stem, CPU).stem == stem


def test_a_wrong_description_is_refused_before_it_is_written(tmp_path: Path) -> None:
    network = Network(build("resnet-18", outputs=10), "resnet-18", 10, "imagenet", *STATISTICS)
    with pytest.raises(
        DirePlugError, match=r"holds a resnet-18 with 10 outputs and the small stem; expected .*imagenet"
    ):
        save(tmp_path / "x.safetensors", network)
    assert not list(tmp_path.iterdir())


def test_a_file_without_our_description_or_damaged_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    safetensors.torch.save_file(build("resnet-small", outputs=10).state_dict(), path)
    with pytest.raises(DirePlugError, match="no description"):
        load(path, CPU)
    save(path, make_network())
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DirePlugError, match=r"x\.safetensors: cannot be read"):
        load(path, CPU)
    with pytest.raises(DirePlugError, match=r"y\.safetensors: cannot be read"):
        load(tmp_path / "y.safetensors", CPU)


@pytest.mark.parametrize("layout", get_args(CheckpointLayout))
def test_what_is_written_for_upstream_is_read_back(tmp_path: Path, layout: CheckpointLayout) -> None:
    network = make_network()
    write_for_upstream(network.model, tmp_path / "x.pth", layout)
    found = read_foreign(tmp_path / "x.pth", architecture="resnet-small", outputs=10, stem="small")
    assert same(found, network.model.state_dict())


def test_the_layouts_are_as_scripts_read_them(tmp_path: Path) -> None:
    model = nn.DataParallel(make_network().model)
    keys = model.module.state_dict().keys()

    def write(layout: CheckpointLayout) -> Any:
        write_for_upstream(model, tmp_path / "x.pth", layout)
        return torch.load(tmp_path / "x.pth", weights_only=True)

    assert write("state_dict.module")["state_dict"].keys() == {f"module.{key}" for key in keys}
    assert write("state_dict")["state_dict"].keys() == keys
    assert write("model")["model"].keys() == keys
    assert write("bare").keys() == keys
    with pytest.raises(DirePlugError, match="layout 'tar' is unknown"):
        write_for_upstream(model, tmp_path / "y.pth", "tar")
    assert not (tmp_path / "y.pth").exists()


def test_published_layouts_are_recognised(tmp_path: Path) -> None:
    state = dict(make_network().model.state_dict())
    prefixed = {f"module.{key}": value for key, value in state.items()}
    optimiser = torch.optim.SGD(make_network().model.parameters(), lr=0.1, momentum=0.9).state_dict()
    reference = {"model": state, "optimizer": optimiser, "epoch": 3, "args": argparse.Namespace(lr=0.1, model="x")}
    for content in (
        state,
        prefixed,
        {"state_dict": prefixed, "acc": 78.7, "epoch": 9},
        {"state_dict": state},
        reference,
    ):
        torch.save(content, tmp_path / "x.pth")
        found = read_foreign(tmp_path / "x.pth", architecture="resnet-small", outputs=10, stem="small")
        assert same(found, state)


def test_our_own_files_are_read_as_foreign_ones_too(tmp_path: Path) -> None:
    network = make_network()
    save(tmp_path / "x.safetensors", network)
    found = read_foreign(tmp_path / "x.safetensors", architecture="resnet-small", outputs=10, stem="small")
    assert same(found, network.model.state_dict())


def test_counters_that_old_files_lack_are_added(tmp_path: Path) -> None:
    network = make_network()
    state = {key: value for key, value in network.model.state_dict().items() if "num_batches" not in key}
    torch.save(state, tmp_path / "x.pth")
    found = read_foreign(tmp_path / "x.pth", architecture="resnet-small", outputs=10, stem="small")
    assert found.keys() == network.model.state_dict().keys()
    assert all(found[key] == 0 for key in found.keys() - state.keys())


@pytest.mark.parametrize(
    ("architecture", "outputs", "stem"),
    [("resnet-18", 10, "imagenet"), ("resnet-18", 100, "small"), ("resnet-small", 10, "small")],
)
def test_another_network_than_asked_for_is_refused_by_what_it_is(
    tmp_path: Path, architecture: str, outputs: int, stem: str
) -> None:
    write_for_upstream(build("resnet-18", outputs=10), tmp_path / "x.pth", "bare")
    with pytest.raises(DirePlugError) as caught:
        read_foreign(tmp_path / "x.pth", architecture=architecture, outputs=outputs, stem=stem)
    assert f"holds a resnet-18 with 10 outputs and the small stem; expected {architecture} with {outputs}" in str(
        caught.value
    )


def test_an_unknown_network_is_refused_with_the_differences(tmp_path: Path) -> None:
    torch.save({"fc.weight": torch.zeros(10, 4), "extra": torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(DirePlugError) as caught:
        read_foreign(tmp_path / "x.pth", architecture="convnet-small", outputs=10, stem="small")
    assert "  features.0.0.weight: not in the file\n" in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"net": 3, "epoch": 1}, "holds the keys net, epoch; expected"),
        ([1, 2], "holds list"),
        ({}, "expected a state dict"),
    ],
)
def test_a_file_without_weights_is_refused(tmp_path: Path, content: object, words: str) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(DirePlugError, match=words):
        read_foreign(tmp_path / "x.pth", architecture="resnet-18", outputs=10, stem="small")


class Intruder:
    """Leaves a mark when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    torch.save({"state_dict": {}, "extra": Intruder(tmp_path / "mark")}, tmp_path / "x.pth")
    with pytest.raises(DirePlugError, match=r"more than tensors and plain values \(\w*io\.open\)"):
        read_foreign(tmp_path / "x.pth", architecture="resnet-18", outputs=10, stem="small")
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("content", [b"", b"no checkpoint at all", None])
def test_a_file_that_is_no_checkpoint_is_named(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(DirePlugError, match=r"x\.pth: "):
        read_foreign(tmp_path / "x.pth", architecture="resnet-18", outputs=10, stem="small")


def test_a_truncated_checkpoint_is_named(tmp_path: Path) -> None:
    write_for_upstream(make_network().model, tmp_path / "x.pth", "bare")
    (tmp_path / "x.pth").write_bytes((tmp_path / "x.pth").read_bytes()[:-2000])
    with pytest.raises(DirePlugError, match=r"x\.pth: cannot be read"):
        read_foreign(tmp_path / "x.pth", architecture="resnet-small", outputs=10, stem="small")


def test_a_description_that_lies_about_its_weights_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    described = {"architecture": "resnet-18", "outputs": 10, "stem": "small", "mean": [0, 0, 0], "std": [1, 1, 1]}
    safetensors.torch.save_file(
        build("resnet-small", outputs=10).state_dict(), path, metadata={"dire-plug": json.dumps(described)}
    )
    with pytest.raises(DirePlugError, match="holds a resnet-small"):
        load(path, CPU)
