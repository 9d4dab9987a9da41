"""Each architecture by what is known of it: parameters, embedding, files, and the keys of the methods' code."""

from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torchvision.models import get_model_weights

from dire_plug.errors import DirePlugError
from dire_plug.models import architectures, build, embed, last_linear, least_size, nonnegative, stems, upstream_keys
from dire_plug.models.architectures import is_made_for_a_size, size_of, torchvision_name
from dire_plug.models.checkpoint import Network, NetworkSpec, identify, load, read_foreign, save, write_for_upstream
from dire_plug.models.upstream_keys import our_keys

# Parameters with ten outputs at 32 px, and the width of the embedding: those of the methods' own networks.
PUBLISHED = {
    "resnet-18": (11_173_962, 512),
    "convnet-1": (331_530, 32_768),
    "convnet-2": (233_610, 8192),
    "convnet-3": (320_010, 2048),
    "convnet-3-bn": (320_010, 2048),
    "convnet-4": (452_490, 512),
    "convnet-4-bn": (452_490, 512),
    "mobilenet-v2-ufc": (2_296_922, 1280),
    "efficientnet-b0-ufc": (3_599_686, 320),
    "shufflenet-g2-ufc": (887_582, 800),
    "vgg-16-bn-dwa": (14_728_266, 512),
    "mobilenet-v2-gvbsm": (697_546, 1280),
    "wrn-16-2": (691_674, 128),
    "shufflenet-v2-x0.5": (351_466, 1024),
}
RENAMED = [
    ("infer", "mobilenet-v2-ufc"),
    ("infer", "efficientnet-b0-ufc"),
    ("infer", "shufflenet-g2-ufc"),
    ("infer", "convnet-3-bn"),
    ("dwa", "vgg-16-bn-dwa"),
    ("g-vbsm", "resnet-18"),
    ("g-vbsm", "convnet-3"),
    ("g-vbsm", "mobilenet-v2-gvbsm"),
    ("g-vbsm", "wrn-16-2"),
    ("g-vbsm", "shufflenet-v2-x0.5"),
    ("mtt", "convnet-4"),
    ("dm", "convnet-3"),
    ("delt", "convnet-3-bn"),
    ("delt", "convnet-4-bn"),
]
HEAVY = ("resnet-50", "resnet-101", "vgg-16")
KINDS = [(name, stem) for name in architectures() for stem in stems(name)]
STATISTICS = ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def sketch(architecture: str, *, outputs: int = 10, stem: str | None = None, size: int | None = None) -> nn.Module:
    """Build without memory: shapes and keys alone."""
    with torch.device("meta"):
        return build(architecture, outputs=outputs, stem=stem or stems(architecture)[0], size=size)


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("architecture", PUBLISHED)
def test_parameters_and_embedding_are_as_many_as_in_the_published_network(architecture: str) -> None:
    model = sketch(architecture, size=32)
    assert (count(model), last_linear(model).in_features) == PUBLISHED[architecture]


@pytest.mark.parametrize("architecture", [name for name in architectures() if torchvision_name(name)])
def test_with_the_imagenet_stem_the_parameters_are_torchvisions(architecture: str) -> None:
    name = torchvision_name(architecture)
    assert name is not None
    published = get_model_weights(name)["IMAGENET1K_V1"].meta["num_params"]
    assert count(sketch(architecture, outputs=1000, stem="imagenet")) == published


@pytest.mark.parametrize("name", ["get_model", "resnet18"])
def test_a_function_of_torchvisions_that_is_replaced_is_not_called(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    def refuse(*arguments: object, **options: object) -> nn.Module:
        raise AssertionError("called")

    monkeypatch.setattr(torchvision.models, name, refuse)
    assert last_linear(sketch("resnet-18")).in_features == 512


@pytest.mark.parametrize("architecture", [name for name in architectures() if name not in HEAVY])
def test_the_sign_of_embeddings_is_as_promised(architecture: str) -> None:
    torch.manual_seed(0)
    size = max(16, least_size(architecture))
    made_for = size if is_made_for_a_size(architecture) else None
    model = build(architecture, outputs=10, stem=stems(architecture)[0], size=made_for).eval()
    embeddings = embed(model, torch.randn(4, 3, size, size))
    assert nonnegative(architecture) == bool((embeddings >= 0).all())
    assert embeddings.count_nonzero() > 0


@pytest.mark.parametrize(("architecture", "size", "width"), [("convnet-4", 64, 2048), ("convnet-3-bn", 64, 8192)])
def test_the_size_of_a_convnet_is_told_by_its_head(architecture: str, size: int, width: int) -> None:
    model = sketch(architecture, size=size)
    assert last_linear(model).in_features == width
    assert size_of(architecture, model.state_dict()) == size


@pytest.mark.parametrize(("architecture", "stem"), KINDS)
def test_every_architecture_is_identified_by_its_weights(architecture: str, stem: str) -> None:
    state = sketch(architecture, outputs=7, stem=stem).state_dict()
    assert identify(state) == NetworkSpec(architecture, 7, stem)


@pytest.mark.parametrize(("method", "architecture"), RENAMED)
def test_upstreams_keys_are_each_of_one_of_ours_and_lead_back(method: str, architecture: str) -> None:
    state = sketch(architecture, size=32).state_dict()
    rename = upstream_keys(architecture, method)
    renamed = {rename(key): value for key, value in state.items()}
    assert len(renamed) == len(state)
    assert renamed.keys() != state.keys()
    assert list(our_keys(architecture, renamed, state)) == list(state)
    assert identify(renamed) == NetworkSpec(architecture, 10, "small")


@pytest.mark.parametrize(
    ("method", "architecture", "ours", "theirs"),
    [
        ("g-vbsm", "resnet-18", "layer2.0.downsample.1.bias", "layer2.0.shortcut.1.bias"),
        ("g-vbsm", "wrn-16-2", "features.3.beside.weight", "block2.layer.0.convShortcut.weight"),
        ("g-vbsm", "mobilenet-v2-gvbsm", "features.17.branch.2.1.weight", "blocks.6.0.conv.7.weight"),
        ("g-vbsm", "shufflenet-v2-x0.5", "stage3.0.branch2.6.weight", "layer2.0.bn5.weight"),
        ("g-vbsm", "shufflenet-v2-x0.5", "stage3.1.branch2.6.weight", "layer2.1.bn3.weight"),
        ("infer", "mobilenet-v2-ufc", "features.2.beside.0.weight", "layers.1.shortcut.0.weight"),
        ("infer", "efficientnet-b0-ufc", "features.1.block.2.0.weight", "layers.0.conv3.weight"),
        ("infer", "efficientnet-b0-ufc", "features.2.block.2.fc1.bias", "layers.1.se.se1.bias"),
        ("infer", "shufflenet-g2-ufc", "features.5.branch.3.0.weight", "layer2.0.conv3.weight"),
        ("mtt", "convnet-3", "features.2.1.bias", "features.9.bias"),
        ("delt", "convnet-4-bn", "features.3.1.running_var", "layers.norm.3.running_var"),
        ("infer", "resnet-18", "layer2.0.downsample.1.bias", "layer2.0.downsample.1.bias"),
        ("somebody-elses", "convnet-3", "fc.bias", "fc.bias"),
    ],
)
def test_keys_are_renamed_as_upstream_has_them(method: str, architecture: str, ours: str, theirs: str) -> None:
    assert upstream_keys(architecture, method)(ours) == theirs


@pytest.mark.parametrize("architecture", ["mobilenet-v2-gvbsm", "efficientnet-b0", "convnet-4-bn"])
def test_a_network_of_another_method_comes_back_from_its_file(tmp_path: Path, architecture: str) -> None:
    stem = stems(architecture)[0]
    network = Network(build(architecture, outputs=10, stem=stem, size=32), architecture, 10, stem, *STATISTICS)
    save(tmp_path / "x.safetensors", network)
    found = load(tmp_path / "x.safetensors", torch.device("cpu"))
    assert same(found.model.state_dict(), network.model.state_dict())


@pytest.mark.parametrize(("method", "architecture"), [("g-vbsm", "wrn-16-2"), ("infer", "efficientnet-b0-ufc")])
def test_what_is_written_with_upstreams_keys_is_read_back(tmp_path: Path, method: str, architecture: str) -> None:
    model = build(architecture, outputs=10)
    path = tmp_path / "x.pth"
    write_for_upstream(model, path, "state_dict.module", keys=upstream_keys(architecture, method))
    written = torch.load(path, weights_only=True)["state_dict"]
    assert "module.conv1.weight" in written
    assert same(read_foreign(path, architecture=architecture, outputs=10, stem="small"), model.state_dict())


def test_another_network_in_upstreams_keys_is_refused_by_what_it_is(tmp_path: Path) -> None:
    keys = upstream_keys("mobilenet-v2-gvbsm", "g-vbsm")
    write_for_upstream(build("mobilenet-v2-gvbsm", outputs=10), tmp_path / "x.pth", "bare", keys=keys)
    with pytest.raises(DirePlugError, match=r"holds a mobilenet-v2-gvbsm with 10 .* expected wrn-16-2 with 10"):
        read_foreign(tmp_path / "x.pth", architecture="wrn-16-2", outputs=10, stem="small")


def test_the_expansion_that_efficientnet_does_not_read_changes_nothing() -> None:
    model = build("efficientnet-b0-ufc", outputs=10).eval()
    images = torch.randn(2, 3, 32, 32)
    before = model(images)
    unread = model.get_submodule("features.1.unread")
    for parameter in unread.parameters():
        nn.init.normal_(parameter)
    assert torch.equal(model(images), before)


@pytest.mark.parametrize("architecture", ["resnet-small", "convnet-small"])
def test_a_grey_network_sees_the_mean_of_the_channels(architecture: str) -> None:
    colour, grey = build(architecture, outputs=10).eval(), build(f"{architecture}-grey", outputs=10).eval()
    grey.load_state_dict(colour.state_dict(), strict=False)
    images = torch.rand(4, 3, 8, 8, requires_grad=True)
    outputs = grey(images)
    assert torch.allclose(outputs, colour(images.mean(dim=1, keepdim=True).expand_as(images)), atol=1e-6)
    (gradient,) = torch.autograd.grad(outputs.square().sum(), images)
    assert torch.equal(gradient, gradient[:, :1].expand_as(gradient))
    assert gradient.count_nonzero() > 0


def test_a_grey_network_keeps_its_mean_when_a_script_replaces_its_stem() -> None:
    model = build("resnet-small-grey", outputs=10).eval()
    model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    images = torch.rand(2, 3, 8, 8)
    # the same sum of channels, another colour
    assert torch.allclose(model(images), model(images.flip(1)), atol=1e-6)
