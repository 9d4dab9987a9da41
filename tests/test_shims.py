"""Shims: old upstream code runs on this machine, and reads and reaches nothing that it shouldn't."""

import argparse
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torchvision
from put_back import active_modes, shims_put_back
from torch import nn
from torchvision.models import WeightsEnum

from dire_plug.errors import DirePlugError
from dire_plug.upstream import shims


@pytest.fixture(autouse=True)
def child_only() -> Iterator[None]:
    """Put everything back that a shim replaces."""
    with shims_put_back():
        yield


def test_cuda_means_the_jobs_device() -> None:
    shims.install({"device": {}}, device="cpu")
    made = [
        torch.zeros(1).cuda(),
        torch.zeros(1).to("cuda"),
        torch.zeros(1).to(device="cuda:3"),
        torch.zeros(1, device="cuda"),
        torch.zeros(1, device=torch.device("cuda", 1)),
        nn.Linear(1, 1).cuda().weight,
        nn.Linear(1, 1).to("cuda").weight,
        nn.CrossEntropyLoss(torch.ones(2)).cuda().weight,
    ]
    assert {str(tensor.device) for tensor in made if isinstance(tensor, torch.Tensor)} == {"cpu"}


def test_a_leaf_made_on_cuda_stays_a_leaf() -> None:
    shims.install({"device": {}}, device="cpu")
    images = torch.randn((2, 3), requires_grad=True, device="cuda", dtype=torch.float)
    assert images.is_leaf
    assert images.cuda() is images


def test_data_parallel_works_on_the_cpu_and_keeps_its_prefix() -> None:
    shims.install({"device": {}}, device="cpu")
    network = nn.DataParallel(nn.Linear(2, 1)).cuda()
    assert list(network.state_dict()) == ["module.weight", "module.bias"]
    assert network(torch.ones(1, 2)).shape == (1, 1)


def test_on_a_cuda_device_nothing_is_replaced() -> None:
    before = nn.Module.cuda
    shims.install({"device": {}}, device="cuda:0")
    assert nn.Module.cuda is before
    assert active_modes() == 0


def test_a_checkpoint_with_its_arguments_can_be_read(tmp_path: Path) -> None:
    torch.save({"model": torch.ones(1), "args": argparse.Namespace(lr=0.1)}, tmp_path / "checkpoint.pth")
    shims.install({"torch_load": {}}, device="cpu")
    assert torch.load(tmp_path / "checkpoint.pth", weights_only=False)["args"].lr == 0.1


class Payload:
    """Pickles as a call that writes a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.target,))


def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save(Payload(tmp_path / "ran"), tmp_path / "evil.pth")
    shims.install({"torch_load": {}}, device="cpu")
    with pytest.raises(Exception, match="Weights only load failed"):
        torch.load(tmp_path / "evil.pth", weights_only=False)
    assert not (tmp_path / "ran").exists()


def test_the_networks_name_gives_our_architecture_with_what_the_script_replaces() -> None:
    options = {"replace": "resnet18", "architecture": "resnet-small"}
    shims.install({"get_model": options}, device="cpu")
    network = torchvision.models.get_model("resnet18", num_classes=100)
    network.conv1 = nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    assert network.eval()(torch.zeros(1, 3, 8, 8)).shape == (1, 100)
    assert type(torchvision.models.__dict__["resnet18"](num_classes=5)) is type(network)
    assert type(torchvision.models.get_model("squeezenet1_1", num_classes=5)).__name__ == "SqueezeNet"


@pytest.mark.filterwarnings("ignore:The parameter 'pretrained':UserWarning")
@pytest.mark.filterwarnings("ignore:Arguments other than a weight enum:UserWarning")
def test_pretrained_weights_come_from_the_given_file_and_the_verifiers_from_a_seed(tmp_path: Path) -> None:
    teacher = torchvision.models.resnet18()
    torch.save(teacher.state_dict(), tmp_path / "teacher.pt")
    shims.install({"hub_weights": {"teacher": str(tmp_path / "teacher.pt")}, "network": {}}, device="cpu")
    found = torchvision.models.__dict__["resnet18"](pretrained=True)
    assert torch.equal(found.fc.weight, teacher.fc.weight)
    state = torch.get_rng_state()
    verifiers = [WeightsEnum.get_state_dict(torchvision.models.ShuffleNet_V2_X0_5_Weights.DEFAULT) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(verifiers[0]["fc.weight"], verifiers[1]["fc.weight"])


def test_the_verifiers_weights_do_not_seed_cuda_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    shims.install({"hub_weights": {"teacher": str(tmp_path / "teacher.pt")}}, device="cpu")
    torchvision.models.ShuffleNet_V2_X0_5_Weights.DEFAULT.get_state_dict(progress=True)
    assert seeds == []


def test_weights_in_another_layout_are_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {"weight": torch.ones(1)}}, tmp_path / "teacher.pt")
    shims.install({"hub_weights": {"teacher": str(tmp_path / "teacher.pt")}}, device="cpu")
    with pytest.raises(DirePlugError, match=r"teacher\.pt: must hold a bare state dict"):
        torchvision.models.ResNet18_Weights.DEFAULT.get_state_dict(progress=True)


def test_a_connection_is_refused_and_its_address_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = server.getsockname()
        shims.install({"network": {}}, device="cpu")
        with socket.socket() as client:
            for call in (client.connect, client.connect_ex):
                with pytest.raises(OSError, match=str(address[1])):
                    call(address)
    with pytest.raises(OSError, match=r"'example\.invalid', but it has no network under dire-plug"):
        socket.create_connection(("example.invalid", 80))


def test_an_unknown_shim_is_refused_before_any_is_installed() -> None:
    before = torch.load
    with pytest.raises(DirePlugError, match=r"unknown shim 'devise' \(did you mean 'device'\?\); known: device, "):
        shims.install({"torch_load": {}, "devise": {}}, device="cpu")
    assert torch.load is before


def test_what_keeps_code_away_from_files_devices_and_the_network_is_installed_unasked(tmp_path: Path) -> None:
    torch.save(Payload(tmp_path / "ran"), tmp_path / "evil.pth")
    shims.install({}, device="cpu")
    assert torch.zeros(1, device="cuda").device.type == "cpu"
    with pytest.raises(Exception, match="Weights only load failed"):
        torch.load(tmp_path / "evil.pth", weights_only=False)
    with pytest.raises(OSError, match="it has no network under dire-plug"):
        socket.create_connection(("example.invalid", 80))


def test_an_adapter_cannot_choose_the_device() -> None:
    with pytest.raises(DirePlugError, match=r"shim 'device' with options .*multiple values .*'device'"):
        shims.install({"device": {"device": "cuda"}}, device="cpu")


def test_an_option_that_a_shim_lacks_is_refused() -> None:
    with pytest.raises(DirePlugError, match=r"shim 'network' with options .*unexpected keyword argument 'allow'"):
        shims.install({"network": {"allow": "x"}}, device="cpu")
