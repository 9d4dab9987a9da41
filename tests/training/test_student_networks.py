"""The students of other families: the transformers, what they are made of, and every student under both stems."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from support.small_run import write_recipe
from support.stub_run import CPU, NETWORK, RECIPE, change, make_run, random_set
from torch import Tensor, nn
from torch.nn import functional as F

from dire_plug.errors import DirePlugError
from dire_plug.models import architectures, build, check_architecture, embed, last_linear, stem_like, stems
from dire_plug.models.architectures import is_made_for_a_size, size_of
from dire_plug.models.checkpoint import Network, NetworkSpec, identify, load, save
from dire_plug.models.vit import HEAD_WIDTH, HEADS, LocalityAttention, ShiftedPatches, VitSmall, patch_of
from dire_plug.recipe.model import Recipe, SqueezeSection
from dire_plug.stages.evaluate import evaluate
from dire_plug.stages.squeeze import network_file, squeeze

STATISTICS = ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
TRANSFORMERS = [name for name in architectures() if is_made_for_a_size(name)]


def make_images(count: int, size: int) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def sketch(architecture: str, *, size: int | None) -> nn.Module:
    """Build without memory: shapes and keys alone."""
    with torch.device("meta"):
        return build(architecture, outputs=7, stem=stems(architecture)[0], size=size)


def test_the_parameters_of_the_small_transformer_are_those_of_its_settings() -> None:
    # Tokens: norm 2·240, projection 240·512 + 512, 65 positions and the class token of 512.
    tokens = 480 + 123_392 + 66 * 512
    # A block: two norms, 512·1536 to read, 8 scales, 512² + 512 to project, twice 512² + 512 for the MLP.
    block = 2 * 1024 + 512 * 1536 + 8 + 3 * (512**2 + 512)
    model = sketch("vit-small", size=32)
    assert sum(parameter.numel() for parameter in model.parameters()) == tokens + 6 * block + 1024 + 7 * 513
    assert last_linear(model).in_features == 512


@pytest.mark.parametrize(("size", "patch", "tokens"), [(8, 4, 4), (16, 4, 16), (32, 4, 64), (64, 8, 64)])
def test_a_large_image_has_as_many_tokens_as_one_of_32_pixels(size: int, patch: int, tokens: int) -> None:
    assert patch_of(size) == patch
    assert ShiftedPatches(patch)(make_images(2, size)).shape == (2, tokens, 512)


def test_a_patch_is_read_with_that_of_four_diagonally_shifted_images() -> None:
    layer = ShiftedPatches(4).double()
    layer.project = nn.Linear(240, 240).double()
    with torch.no_grad():
        layer.project.weight.copy_(torch.eye(240))
        layer.project.bias.zero_()
    images = make_images(2, 12).double()
    tokens = layer(images).detach()
    for image in range(2):
        for token in range(9):
            seen = []
            for down, right in ((0, 0), (-2, -2), (-2, 2), (2, -2), (2, 2)):
                for channel in range(3):
                    for row in range(4):
                        for column in range(4):
                            y, x = token // 3 * 4 + row + down, token % 3 * 4 + column + right
                            inside = 0 <= y < 12 and 0 <= x < 12
                            seen.append(float(images[image, channel, y, x]) if inside else 0.0)
            expected = F.layer_norm(torch.tensor(seen, dtype=torch.float64), (240,))
            torch.testing.assert_close(tokens[image, token], expected)


def test_attention_leaves_the_token_itself_out_and_scales_each_head() -> None:
    torch.manual_seed(0)
    layer = LocalityAttention().double().eval()
    with torch.no_grad():
        layer.scale.copy_(torch.linspace(0.05, 0.9, HEADS))
    tokens = torch.randn(2, 5, 512, dtype=torch.float64)
    found = layer(tokens)
    query, key, value = layer.read(tokens).chunk(3, dim=-1)
    for image in range(2):
        for here in range(5):
            heads = []
            for head in range(HEADS):
                part = slice(head * HEAD_WIDTH, (head + 1) * HEAD_WIDTH)
                others = [there for there in range(5) if there != here]
                logits = torch.stack([query[image, here, part] @ key[image, there, part] for there in others])
                weights = torch.softmax(layer.scale[head] * logits, dim=0)
                heads.append(weights @ torch.stack([value[image, there, part] for there in others]))
            torch.testing.assert_close(found[image, here], layer.project(torch.cat(heads)))


def test_the_temperature_of_attention_is_learned() -> None:
    model = VitSmall(10, size=8)
    model(make_images(2, 8)).square().sum().backward()
    attention = next(module for module in model.modules() if isinstance(module, LocalityAttention))
    assert attention.scale.tolist() == [HEAD_WIDTH**-0.5] * HEADS
    assert attention.scale.grad is not None
    assert attention.scale.grad.count_nonzero() == HEADS


def test_the_order_of_patches_counts() -> None:
    model = VitSmall(10, size=8).eval()
    image = make_images(1, 8)
    turned = image.roll(4, dims=3)
    assert not torch.allclose(model(image), model(turned), atol=1e-3)


@pytest.mark.parametrize("architecture", TRANSFORMERS)
@pytest.mark.parametrize("size", [16, 64])
def test_the_size_of_a_transformer_is_told_by_its_weights(tmp_path: Path, architecture: str, size: int) -> None:
    stem = stems(architecture)[0]
    network = Network(build(architecture, outputs=7, stem=stem, size=size).eval(), architecture, 7, stem, *STATISTICS)
    save(tmp_path / "x.safetensors", network)
    found = load(tmp_path / "x.safetensors", torch.device("cpu"))
    assert size_of(architecture, network.model.state_dict()) == size
    images = make_images(2, size)
    assert torch.equal(embed(found.model, images), embed(network.model, images))


@pytest.mark.parametrize("architecture", TRANSFORMERS)
def test_without_a_size_a_transformer_is_made_for_its_published_one(architecture: str) -> None:
    size = {"vit-small": 32, "vit-tiny": 224}[architecture]
    assert size_of(architecture, sketch(architecture, size=None).state_dict()) == size


def test_images_of_another_size_are_refused_by_the_small_transformer() -> None:
    with pytest.raises(DirePlugError, match="vit-small: made for images of 32 × 32 pixels, not 64 × 64"):
        VitSmall(10)(make_images(1, 64))


def test_a_transformer_for_64_pixels_is_identified() -> None:
    assert identify(sketch("vit-small", size=64).state_dict()) == NetworkSpec("vit-small", 7, "small")


def test_without_timm_only_its_student_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.setattr("dire_plug.models.vit.find_spec", lambda name: None)
    with pytest.raises(DirePlugError, match=r"needs the package timm; .*pip install 'dire-plug\[students\]'"):
        check_architecture("vit-tiny")
    assert identify({"somebody.weight": torch.zeros(7, 3)}) is None


@pytest.mark.parametrize("wanted", ["small", "imagenet"])
@pytest.mark.parametrize("architecture", architectures())
def test_every_student_has_a_stem_under_a_teacher_of_either(architecture: str, wanted: str) -> None:
    stem = stem_like(architecture, wanted)
    assert stem in stems(architecture)
    assert stem == wanted or wanted not in stems(architecture)


STUDENTS = ["resnet-18", "mobilenet-v2", "mobilenet-v2-ufc", "shufflenet-v2-x0.5", "shufflenet-g2-ufc", "vit-small"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


def test_students_of_every_family_are_trained_and_tested(store: Path) -> None:
    evaluation = {**RECIPE["evaluate"], "students": STUDENTS, "per_synthesis": 1, "epochs": 1, "lr": 0.001}
    run = change(make_run(store), evaluate=Recipe.model_validate({**RECIPE, "evaluate": evaluation}).evaluate)
    result = evaluate(run, squeeze(run), random_set(run, ipc=2, seed=0))
    assert list(result["students"]) == STUDENTS
    assert all(0 <= found["mean"] <= 100 for found in result["students"].values())


def test_a_transformer_can_be_the_independent_network(store: Path) -> None:
    network = {**NETWORK, "architecture": "vit-small", "epochs": 1, "lr": 0.001}
    section = {"outputs": 4, "teacher": NETWORK, "independent": network}
    run = change(make_run(store), squeeze=SqueezeSection.model_validate(section))
    found = load(network_file(run, squeeze(run).independent), CPU)
    assert isinstance(found.model, VitSmall)
    assert found.model.size == run.dataset.size


def test_images_that_are_too_small_for_a_student_are_refused_at_once(tmp_path: Path, bare_home: Path, cli: Any) -> None:
    path = write_recipe(tmp_path / "tiny.yaml", {"evaluate": {"students": ["resnet-small", "vgg-16"]}})
    answer = cli("run", "sre2l", "--recipe", path, "--engine", "native")
    assert answer.code == 2
    assert "vgg-16 needs images of 32 pixels or more, not 8" in answer.err
    assert not (bare_home / "store").exists()
    assert not (bare_home / "runs").exists()
