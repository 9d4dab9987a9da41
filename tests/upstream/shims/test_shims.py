"""Shims: old upstream code runs on this machine, and reads and reaches nothing that it shouldn't."""

import argparse
import random
import socket
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
import torchvision
from support.shim_isolation import active_modes, shims_put_back
from torch import nn
from torchvision.models import WeightsEnum

from dire_plug.errors import DirePlugError
from dire_plug.models import build
from dire_plug.upstream import shims
from dire_plug.upstream.shims.class_networks import class_aware


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


def test_devices_named_by_number_mean_the_jobs_device() -> None:
    shims.install({"device": {}}, device="cpu")
    gpu = 0
    torch.cuda.set_device(gpu)
    torch.cuda.empty_cache()
    made = [
        torch.from_numpy(numpy.ones(1)).cuda(gpu),
        torch.zeros(1).cuda(gpu, non_blocking=True),
        torch.zeros(1).cuda(device=gpu),
        torch.zeros(1).pin_memory().cuda(gpu),
        torch.randn((1, 3), requires_grad=True, device=f"cuda:{gpu}", dtype=torch.float),
        torch.tensor([0.0]).to(f"cuda:{gpu}", non_blocking=True),
        nn.DataParallel(nn.Linear(1, 1)).cuda(gpu).module.weight,
    ]
    assert {tensor.device.type for tensor in made} == {"cpu"}
    assert made[4].is_leaf


def test_what_a_script_asks_of_a_device_is_answered_without_one() -> None:
    shims.install({"device": {}}, device="cpu")
    torch.cuda.reset_max_memory_allocated()
    torch.cuda.reset_peak_memory_stats(0)
    torch.cuda.synchronize()
    torch.cuda.set_device(torch.cuda.current_device())
    with torch.cuda.device(0):
        assert torch.zeros(1).cuda().device.type == "cpu"
    assert torch.cuda.max_memory_allocated() == 0 == sum(torch.cuda.mem_get_info())
    assert torch.cuda.memory_summary(abbreviated=True) == ""


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


def test_a_hard_coded_path_is_read_from_elsewhere(tmp_path: Path) -> None:
    torch.save({"model": torch.ones(2)}, tmp_path / "ours.pth")
    torch.save({"model": torch.zeros(2)}, tmp_path / "other.pth")
    shims.install({"torch_load": {"replace": {"/nowhere/conv4.pth": str(tmp_path / "ours.pth")}}}, device="cpu")
    assert torch.load("/nowhere/./conv4.pth", "cpu")["model"].tolist() == [1, 1]
    assert torch.load(tmp_path / "other.pth", map_location=None)["model"].tolist() == [0, 0]
    with pytest.raises(FileNotFoundError):
        torch.load("/nowhere/conv3.pth")


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


def test_a_networks_name_gives_ours_with_what_the_script_replaces() -> None:
    options = {"replace": "resnet18", "architecture": "resnet-small"}
    shims.install({"get_model": options}, device="cpu")
    network = torchvision.models.get_model("resnet18", num_classes=100)
    network.conv1 = nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    assert network.eval()(torch.zeros(1, 3, 8, 8)).shape == (1, 100)
    assert type(torchvision.models.__dict__["resnet18"](num_classes=5)) is type(network)
    assert type(torchvision.models.get_model("squeezenet1_1", num_classes=5)).__name__ == "SqueezeNet"


def test_a_network_named_as_an_attribute_is_ours_too_and_equal_to_itself() -> None:
    shims.install({"get_model": {"replace": "resnet18", "architecture": "resnet-small"}}, device="cpu")
    network = torchvision.models.resnet18(num_classes=10)
    network.conv1, network.maxpool = nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False), nn.Identity()
    assert network.eval()(torch.zeros(1, 3, 8, 8)).shape == (1, 10)
    assert torchvision.models.resnet18 == torchvision.models.__dict__["resnet18"]


def test_a_network_of_ours_has_no_trained_weights_to_ask_for() -> None:
    shims.install({"get_model": {"replace": "resnet18", "architecture": "resnet-small"}}, device="cpu")
    with pytest.raises(DirePlugError, match="'resnet-small', which replaces it, has none"):
        torchvision.models.get_model("resnet18", weights="DEFAULT")


def test_a_network_of_upstreams_own_module_is_ours_at_each_import(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "their_models").mkdir()
    (tmp_path / "their_models" / "__init__.py").write_text("def Net(*, ncls): return 'theirs'\n\n\nOther = Net\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    options = {"module": "their_models", "replace": {"Net": "resnet-small"}, "outputs": "ncls"}
    shims.install({"own_networks": options}, device="cpu")
    for _ in range(2):  # as the child forgets upstream's modules between passes
        found = import_module("their_models")
        assert [found.Net(ncls=7).fc.out_features, found.Net(5).fc.out_features] == [7, 5]
        assert found.Other(ncls=7) == "theirs"
        del sys.modules["their_models"]


def test_a_package_that_a_script_does_not_use_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "their_reader", None)
    shims.install({"empty_modules": {"names": ["their_reader"]}}, device="cpu")
    assert not hasattr(import_module("their_reader"), "read")


def test_random_integers_up_to_a_whole_float_are_those_up_to_the_integer() -> None:
    random.seed(3)
    expected = random.randint(0, 10**13)
    shims.install({"whole_floats": {}}, device="cpu")
    random.seed(3)
    assert random.randint(0, 1e13) == expected  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="whole numbers"):
        random.randint(0, 0.5)  # type: ignore[arg-type]


def test_a_network_that_upstreams_module_lacks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "their_nets.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    shims.install({"own_networks": {"module": "their_nets", "replace": {"Net": "resnet-small"}}}, device="cpu")
    with pytest.raises(DirePlugError, match="upstream's module 'their_nets' has no 'Net'"):
        import_module("their_nets")


class ClassAwareBatchNorm2d(nn.BatchNorm2d):
    """A layer as LPLD's: it takes a pair, and keeps what it has seen of each class."""

    seen: torch.Tensor

    def __init__(self, features: int, classes: int, **options: Any) -> None:
        super().__init__(features, **options)
        self.register_buffer("seen", torch.zeros(classes))

    def forward(self, pair: Any) -> torch.Tensor:
        features, labels = pair
        if labels is not None:
            self.seen[labels] += 1
        return super().forward(features)


def their_network(**ignored: Any) -> nn.Module:
    """Stand for a network that upstream's module registers."""
    return nn.Identity()


def test_a_network_is_registered_again_in_each_pass() -> None:
    shims.install({"class_networks": {}}, device="cpu")
    for _ in range(2):
        assert torchvision.models._api.register_model()(their_network) is their_network
    assert torchvision.models._api.BUILTIN_MODELS.pop("their_network") is their_network


def test_a_network_of_ours_that_knows_classes_is_built_instead() -> None:
    options = {"replace": "their_network", "architecture": "resnet-small"}
    shims.install({"class_networks": options}, device="cpu")
    made = torchvision.models._api.register_model()(their_network)(num_classes=5)
    del torchvision.models._api.BUILTIN_MODELS["their_network"]
    assert {len(module.seen) for module in made.modules() if isinstance(module, ClassAwareBatchNorm2d)} == {5}


def test_each_batch_norm_sees_pairs_and_the_network_computes_as_before() -> None:
    network = build("resnet-small", outputs=4).eval()
    images, labels = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([1, 1, 3])
    expected, keys = network(images), list(network.state_dict())
    seen = []
    class_aware(network, ClassAwareBatchNorm2d, 4)
    norms = [module for module in network.modules() if isinstance(module, ClassAwareBatchNorm2d)]
    norms[0].register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    assert torch.equal(network.eval()(images, labels), expected)
    assert torch.equal(network(images), expected)
    assert [key for key in network.state_dict() if not key.endswith("seen")] == keys
    assert [found is labels for _, found in seen] == [True, False]
    assert {tuple(norm.seen.tolist()) for norm in norms} == {(0, 1, 0, 1)}


@pytest.mark.filterwarnings("ignore:The parameter 'pretrained':UserWarning")
@pytest.mark.filterwarnings("ignore:Arguments other than a weight enum:UserWarning")
def test_pretrained_weights_come_from_a_file_and_the_verifiers_from_a_seed(tmp_path: Path) -> None:
    teacher = torchvision.models.resnet18()
    torch.save(teacher.state_dict(), tmp_path / "teacher.pt")
    options = {"teacher": str(tmp_path / "teacher.pt")}
    shims.install({"hub_weights": {**options, "untrained": True}, "network": {}}, device="cpu")
    found = torchvision.models.__dict__["resnet18"](pretrained=True)
    assert torch.equal(found.fc.weight, teacher.fc.weight)
    state = torch.get_rng_state()
    verifiers = [WeightsEnum.get_state_dict(torchvision.models.ShuffleNet_V2_X0_5_Weights.DEFAULT) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(verifiers[0]["fc.weight"], verifiers[1]["fc.weight"])
    shims.install({"hub_weights": options}, device="cpu")
    with pytest.raises(DirePlugError, match=r"weights of 'shufflenet_v2_x0_5'; given: resnet18; .* `untrained: True`"):
        torchvision.models.ShuffleNet_V2_X0_5_Weights.DEFAULT.get_state_dict()


def test_several_architectures_get_a_file_each(tmp_path: Path) -> None:
    files: dict[str, str] = {}
    names = ("resnet18", "mobilenet_v2", "efficientnet_b0", "shufflenet_v2_x0_5")
    for number, name in enumerate(names):
        files[name] = str(tmp_path / f"{name}.pt")
        torch.save({"weight": torch.full((1,), float(number))}, files[name])
    shims.install({"hub_weights": {"files": files}}, device="cpu")
    asked = [
        torchvision.models.ResNet18_Weights.IMAGENET1K_V1,
        torchvision.models.MobileNet_V2_Weights.IMAGENET1K_V1,
        torchvision.models.EfficientNet_B0_Weights.IMAGENET1K_V1,
        torchvision.models.ShuffleNet_V2_X0_5_Weights.DEFAULT,
    ]
    assert [weights.get_state_dict(progress=True, check_hash=True)["weight"].item() for weights in asked] == [
        0,
        1,
        2,
        3,
    ]
    with pytest.raises(DirePlugError, match=r"trained weights of 'resnet34' \(did you mean 'resnet18'\?\); given: eff"):
        torchvision.models.ResNet34_Weights.DEFAULT.get_state_dict()


def test_a_shim_for_weights_without_weights_is_refused() -> None:
    with pytest.raises(DirePlugError, match=r"shim 'hub_weights' needs the option 'teacher', 'files', or both"):
        shims.install({"hub_weights": {}}, device="cpu")


def test_the_verifiers_weights_do_not_seed_cuda_devices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeds.append)
    shims.install({"hub_weights": {"teacher": str(tmp_path / "teacher.pt"), "untrained": True}}, device="cpu")
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
    with pytest.raises(OSError, match=r"'example\.invalid', but it has no network under dire-plug; .* 'hub_weights'"):
        socket.create_connection(("example.invalid", 80))


def test_an_unknown_shim_is_refused_before_any_is_installed() -> None:
    before = torch.load
    with pytest.raises(DirePlugError, match=r"unknown shim 'devise' \(did you mean 'device'\?\); known: device, "):
        shims.install({"torch_load": {}, "devise": {}}, device="cpu")
    assert torch.load is before


def test_the_device_comes_first_and_every_module_is_known() -> None:
    folder = Path(shims.__file__).parent
    modules = {path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")}
    known = shims.known_shims()
    assert known[0] == "device"
    assert set(known) == modules
    assert list(known[1:]) == sorted(known[1:])
    assert set(shims.ALWAYS) <= modules


def make_shim(site: Path, source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a third-party package with one shim importable."""
    package = site / "their_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "their_shim.py").write_text(source)
    monkeypatch.syspath_prepend(str(site))
    for name in ("their_package", "their_package.their_shim"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_a_third_party_shim_is_installed_after_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "import torch\nSEEN = []\ndef install(*, device, word):\n"
    make_shim(tmp_path, source + "    SEEN.extend([torch.zeros(1, device='cuda').device.type, word])\n", monkeypatch)
    shims.install({"their_package.their_shim": {"word": "x"}}, device="cpu")
    assert sys.modules["their_package.their_shim"].SEEN == ["cpu", "x"]
    assert "their_package.their_shim" not in shims.known_shims()


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("their_package.no_shim", "No module named 'their_package.no_shim'; it must be a module"),
        ("no_package.shim", "No module named 'no_package'"),
        ("their_package.their_shim", "has no attribute 'install'"),
    ],
)
def test_a_third_partys_faulty_shim_is_refused_before_any_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, says: str
) -> None:
    make_shim(tmp_path, "", monkeypatch)
    before = torch.load
    with pytest.raises(DirePlugError, match=rf"shim '{name}': .*{says}"):
        shims.install({name: {}}, device="cpu")
    assert torch.load is before


def test_options_may_name_the_tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_shim(tmp_path, "SEEN = []\ndef install(*, device, links):\n    SEEN.append(links)\n", monkeypatch)
    options = {"their_package.their_shim": {"links": {"models": "{tree}/models", "other": ["{tree}", 3]}}}
    shims.install(options, device="cpu", tree=tmp_path / "tree")
    tree = str(tmp_path / "tree")
    assert [{"models": f"{tree}/models", "other": [tree, 3]}] == sys.modules["their_package.their_shim"].SEEN
    with pytest.raises(DirePlugError, match=r"'\{tree\}/models': \{tree\} can't be replaced"):
        shims.install(options, device="cpu")


def test_what_keeps_code_from_files_devices_and_network_comes_unasked(tmp_path: Path) -> None:
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
