"""Networks by name, and their embeddings."""

import pytest
import torch
from torch import nn

from dire_plug.errors import DirePlugError
from dire_plug.models import architectures, build, embed, last_linear, least_size, stems
from dire_plug.models.architectures import is_made_for_a_size, size_of


def make_images(count: int, size: int) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


LIGHT = [name for name in architectures() if name not in ("resnet-50", "resnet-101", "vgg-16")]


@pytest.mark.parametrize("architecture", [name for name in architectures() if not is_made_for_a_size(name)])
def test_every_architecture_takes_images_of_its_least_size_and_larger_ones(architecture: str) -> None:
    for stem in stems(architecture):
        with torch.device("meta"):
            model = build(architecture, outputs=7, stem=stem)
        assert last_linear(model).out_features == 7
        for size in (least_size(architecture), 32, 64):
            assert model(torch.empty(2, 3, size, size, device="meta")).shape == (2, 7)


def test_the_stem_decides_how_large_the_maps_are() -> None:
    found = {}
    for stem in ("small", "imagenet"):
        model = build("resnet-18", outputs=10, stem=stem)
        assert isinstance(model.conv1, nn.Conv2d)
        assert isinstance(model.layer4, nn.Sequential)
        maps: list[torch.Tensor] = []
        model.layer4.register_forward_hook(lambda module, inputs, output, maps=maps: maps.append(output))
        model(make_images(2, 64))
        found[stem] = (model.conv1.kernel_size, maps[0].shape[-1])
    assert found == {"small": ((3, 3), 8), "imagenet": ((7, 7), 2)}


def test_the_small_resnet_survives_the_change_of_stem_that_scripts_make() -> None:
    model = build("resnet-small", outputs=100)
    changed = build("resnet-small", outputs=100)
    changed.conv1 = nn.Conv2d(3, 64, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1), bias=False)
    changed.maxpool = nn.Identity()
    changed.load_state_dict(model.state_dict())
    images = make_images(4, 8)
    assert list(changed.state_dict()) == list(model.state_dict())
    assert torch.equal(changed.eval()(images), model.eval()(images))
    assert isinstance(changed.fc, nn.Linear)


def test_the_small_resnet_gives_gradients_to_every_pixel() -> None:
    images = make_images(2, 8).requires_grad_()
    loss = build("resnet-small", outputs=10).eval()(images).square().sum()
    (gradient,) = torch.autograd.grad(loss, images)
    assert (gradient != 0).all()


def test_the_convnet_of_a_size_reads_the_whole_last_map() -> None:
    model = build("convnet-3", outputs=10, size=32)
    assert last_linear(model).in_features == 128 * 4 * 4
    assert model(make_images(2, 32)).shape == (2, 10)
    # 3·9·128 + 128, twice 128·9·128 + 128, three norms of 2·128, head of 2048·10 + 10.
    assert sum(parameter.numel() for parameter in model.parameters()) == 3584 + 2 * 147584 + 3 * 256 + 20490
    assert size_of("convnet-3", model.state_dict()) == 32


def test_the_convnet_averages_the_last_map_where_no_size_is_given() -> None:
    torch.manual_seed(0)
    averaged = build("convnet-3", outputs=10)
    torch.manual_seed(0)
    flattened = build("convnet-3", outputs=10, size=8)
    images = make_images(2, 8)
    torch.testing.assert_close(averaged(images), flattened(images))
    assert averaged(make_images(2, 64)).shape == (2, 10)
    assert size_of("convnet-3", averaged.state_dict()) is None


def test_the_convnets_normalisation_is_that_of_instances() -> None:
    images = make_images(4, 16)
    model = build("convnet-3", outputs=10)
    torch.testing.assert_close(model(images)[:1], model(images[:1]))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"architecture": "resnet18"}, "did you mean 'resnet-18'"),
        ({"architecture": "convnet-3", "stem": "imagenet"}, "convnet-3 has no stem 'imagenet'; use small"),
        ({"architecture": "resnet-18", "stem": "large"}, "use small or imagenet"),
        ({"architecture": "convnet-3", "size": 4}, "needs images of 8 pixels"),
        ({"architecture": "convnet-4", "size": 8}, "needs images of 16 pixels"),
        ({"architecture": "vgg-16-bn-dwa", "size": 16}, "needs images of 32 pixels"),
        ({"architecture": "mobilenet-v2"}, "mobilenet-v2 has no stem 'small'; use imagenet"),
        ({"architecture": "vgg-16", "stem": "imagenet", "size": 28}, "vgg-16 needs images of 32 pixels"),
        ({"architecture": "vit-small", "size": 30}, "vit-small cuts .* 30 pixels into patches of 4, .*; use 28 or 32"),
        ({"architecture": "vit-tiny", "stem": "imagenet", "size": 40}, "patches of 16, .*; use 32 or 48"),
    ],
)
def test_what_cannot_be_built_is_refused(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(DirePlugError, match=words):
        build(outputs=10, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("architecture", LIGHT)
def test_embeddings_are_what_reaches_the_last_linear_layer(architecture: str) -> None:
    size = max(16, least_size(architecture))
    made_for = size if is_made_for_a_size(architecture) else None
    model = build(architecture, outputs=7, stem=stems(architecture)[0], size=made_for).eval()
    images = make_images(5, size)
    embeddings = embed(model, images, batch=2)
    head = last_linear(model)
    assert embeddings.shape == (5, head.in_features)
    assert not embeddings.requires_grad
    torch.testing.assert_close(head(embeddings), model(images))


def test_embedding_leaves_no_hook_behind_even_when_the_network_fails() -> None:
    model = build("resnet-small", outputs=7).eval()
    embed(model, make_images(2, 8))
    with pytest.raises(RuntimeError):
        embed(model, torch.zeros(2, 5, 8, 8))
    assert not last_linear(model)._forward_pre_hooks


def test_embedding_keeps_the_mode_of_the_network() -> None:
    model = build("resnet-small", outputs=7)
    images = make_images(6, 8) * 3
    torch.testing.assert_close(embed(model.train(), images)[0], embed(model, images)[0])
    assert not torch.allclose(embed(model.train(), images)[:2], embed(model, images[:2]))
    assert model.training
    assert torch.allclose(embed(model.eval(), images)[:2], embed(model, images[:2]), atol=1e-5)


def test_a_network_without_linear_layer_is_refused() -> None:
    with pytest.raises(DirePlugError, match="Conv2d: has no linear layer"):
        embed(nn.Conv2d(3, 4, 1), make_images(1, 8))


def test_no_images_have_no_embeddings() -> None:
    assert embed(build("resnet-small", outputs=7), torch.empty(0, 3, 8, 8)).shape == (0, 128)


@pytest.mark.slow
def test_the_small_resnet_learns_the_digits() -> None:
    from torch.nn import functional as F

    from dire_plug.data import load
    from dire_plug.data.augmentation.batch import crop_flip, normalise

    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    digits, statistics = load("digits"), ((0.3,) * 3, (0.37,) * 3)
    pixels, labels = digits.train.images(), digits.train.labels
    model = build("resnet-small", outputs=100)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    steps, crop = 12 * (len(labels) // 64), crop_flip(padding=1, flip=False)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 0.1, total_steps=steps + 1)
    for _ in range(steps):
        chosen = torch.randint(0, len(labels), (64,), generator=generator)
        images = crop(pixels[chosen], generator)
        optimiser.zero_grad()
        torch.autograd.backward(F.cross_entropy(model(normalise(images, *statistics)), labels[chosen]))
        optimiser.step()
        schedule.step()
    with torch.no_grad():
        answers = model.eval()(normalise(digits.test.images(), *statistics)).argmax(1)
    assert (answers == digits.test.labels).float().mean() >= 0.97
