"""Published networks as embeddings: what they do to images, and where their weights may come from."""

import sys
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dire_plug.errors import DirePlugError
from dire_plug.models.pretrained import (
    CLIP_FILES,
    Source,
    check_pretrained,
    load_pretrained,
    preprocess,
    torchvision_classifier,
)

CPU = torch.device("cpu")
SMALL = "torchvision:shufflenet_v2_x0_5"


def images(*size: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (2, 3, *size), generator=generator, dtype=torch.uint8)


@cache
def clip_source() -> Source:
    """Return CLIP's source, whose package may warn while it is imported; skip where it isn't installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pytest.importorskip("open_clip", reason="open_clip isn't installed: pip install 'dire-plug[clip]'")
    from dire_plug.models.pretrained import clip

    return clip()


def model_of(name: str) -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return torchvision_classifier(name.removeprefix("torchvision:")).build()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder where torchvision keeps what it fetched."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture
def empty_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder where open_clip keeps what it fetched; nobody may fetch."""

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("the hub was asked")

    clip_source()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("open_clip.download_pretrained", refuse)
    return tmp_path


@pytest.mark.parametrize("size", [(8, 8), (40, 30), (33, 47), (32, 32)])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_preprocessing_is_within_a_grey_level_of_pillows(interpolation: str, size: tuple[int, int]) -> None:
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms._presets import ImageClassification

    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    theirs = ImageClassification(
        crop_size=28, resize_size=32, mean=mean, std=std, interpolation=InterpolationMode(interpolation)
    )
    batch = images(*size)
    expected = torch.stack([theirs(Image.fromarray(one.permute(1, 2, 0).numpy())) for one in batch])
    found = preprocess(batch, resize=32, crop=28, mean=mean, std=std, interpolation=interpolation)
    apart = (found - expected).abs() * 255 * torch.tensor(std).view(3, 1, 1)
    assert found.shape == (2, 3, 28, 28)
    assert apart.max() <= 1.01
    assert apart.mean() < 0.05


def test_clips_preprocessing_is_within_a_grey_level_of_open_clips() -> None:
    preprocessing = clip_source().preprocessing
    from open_clip.transform import PreprocessCfg, image_transform_v2

    theirs = image_transform_v2(PreprocessCfg(size=224), is_train=False)
    batch = images(50, 60)
    expected = torch.stack([theirs(Image.fromarray(one.permute(1, 2, 0).numpy())) for one in batch])
    apart = (preprocessing(batch) - expected).abs() * 255 * torch.tensor(PreprocessCfg().std).view(3, 1, 1)
    assert apart.max() <= 1.01
    assert apart.mean() < 0.05


def test_float_images_are_embedded_like_the_same_grey_levels() -> None:
    network = load_pretrained(SMALL, device=CPU, random=0)
    batch = images(16, 16)
    torch.testing.assert_close(network.embed(batch.float() / 255), network.embed(batch), rtol=1e-4, atol=1e-5)


def test_an_embedding_is_what_reaches_the_last_linear_layer(tmp_path: Path) -> None:
    model, path = model_of(SMALL).eval(), tmp_path / "weights.pth"
    torch.save(model.state_dict(), path)
    network = load_pretrained(SMALL, device=CPU, weights=path)
    batch = images(16, 16)
    found = network.embed(batch)
    assert (found.shape, found.dtype, network.width) == ((2, 1024), torch.float32, 1024)
    with torch.no_grad():
        logits = model(torchvision_classifier("shufflenet_v2_x0_5").preprocessing(batch))
        torch.testing.assert_close(model.fc(found), logits)  # type: ignore[operator]
    assert not found.requires_grad


def test_embeddings_do_not_depend_on_the_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    network = load_pretrained(SMALL, device=CPU, random=0)
    batch = torch.cat([images(8, 8), images(8, 8, seed=1)])
    whole = network.embed(batch)
    monkeypatch.setattr("dire_plug.models.pretrained.BATCH", 3)
    torch.testing.assert_close(network.embed(batch), whole, rtol=1e-4, atol=1e-5)


def test_random_weights_are_their_seeds_and_leave_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    one, same, other = (load_pretrained(SMALL, device=CPU, random=seed) for seed in (0, 0, 1))
    assert one.digest == same.digest != other.digest
    assert torch.equal(one.embed(images(8, 8)), same.embed(images(8, 8)))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("kind", ["pth", "safetensors", "under state_dict", "with module."])
def test_weights_are_read_from_a_file(kind: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    from dire_plug.files import digest_file

    state: dict[str, Any] = model_of(SMALL).state_dict()
    path = tmp_path / f"weights.{kind.split()[0] if kind in ('pth', 'safetensors') else 'pth'}"
    if kind == "safetensors":
        save_file(state, path)
    else:
        content = {f"module.{key}": value for key, value in state.items()} if kind == "with module." else state
        torch.save({"state_dict": content, "epoch": 3} if kind == "under state_dict" else content, path)
    found = load_pretrained(SMALL, device=CPU, weights=path, offline=True)
    assert found.digest == digest_file(path)
    assert torch.equal(found.embed(images(8, 8)), _embed_with(state))


def _embed_with(state: dict[str, Tensor]) -> Tensor:
    model = model_of(SMALL).eval()
    model.load_state_dict(state)
    source = torchvision_classifier("shufflenet_v2_x0_5")
    return source.embed(model, source.preprocessing(images(8, 8)))


def test_clip_is_read_from_a_file_of_all_its_weights_or_of_its_image_tower(tmp_path: Path) -> None:
    source = clip_source()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tower = source.build().half()
    state = {f"visual.{key}": value for key, value in tower.state_dict().items()}
    path = tmp_path / "clip.pt"
    torch.save(state | {"logit_scale": torch.zeros(()), "positional_embedding": torch.zeros(77, 512)}, path)
    network = load_pretrained("clip", device=CPU, weights=path)
    found = network.embed(images(8, 8))
    assert (found.shape, network.width) == ((2, 512), 512)
    with torch.no_grad():
        expected = tower.float().eval()(source.preprocessing(images(8, 8)))
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found[0], found[1])


def test_the_published_keys_of_densenet_are_read(tmp_path: Path) -> None:
    state = model_of("torchvision:densenet121").state_dict()
    old = {key.replace("norm1", "norm.1").replace("conv2", "conv.2"): value for key, value in state.items()}
    assert old.keys() != state.keys()
    source = torchvision_classifier("densenet121")
    assert source.own(old).keys() == state.keys()


def test_what_torchvision_fetched_before_is_used_offline(hub: Path) -> None:
    hub.mkdir(parents=True)
    torch.save(model_of(SMALL).state_dict(), hub / torchvision_classifier("shufflenet_v2_x0_5").file)
    found = load_pretrained(SMALL, device=CPU, offline=True)
    assert found.width == 1024


def test_offline_says_which_file_is_missing(hub: Path, empty_hub: Path) -> None:
    with pytest.raises(DirePlugError, match=r"aren't here, and --offline.*; get shufflenetv2_x0\.5-\w+\.pth and hand"):
        load_pretrained(SMALL, device=CPU, offline=True)
    file = r"open_clip_model\.safetensors of laion/CLIP-ViT-B-32\S+"
    advice = rf"--offline.*get {file} and hand it in: --weights FILE, or run once without --offline"
    with pytest.raises(DirePlugError, match=advice):
        load_pretrained("clip", device=CPU, offline=True)


@pytest.mark.parametrize("offline", [True, False])
@pytest.mark.parametrize("name", CLIP_FILES)
def test_the_hub_is_not_asked_for_what_it_gave_before(name: str, offline: bool, empty_hub: Path) -> None:
    folder = empty_hub / "models--laion--CLIP-ViT-B-32-laion2B-s34B-b79K"
    file = folder / "snapshots" / "a" / name
    for path, text in ((folder / "refs" / "main", "a"), (file, "weights")):
        path.parent.mkdir(parents=True)
        path.write_text(text)
    assert clip_source().fetch(offline) == file


def test_a_failed_download_says_which_file_to_hand_in(
    hub: Path, empty_hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError("no route to host\nand more")

    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    with pytest.raises(DirePlugError, match=r"cannot be fetched \(no route to host\); get shufflenetv2_x0\.5-\w+\.pth"):
        load_pretrained(SMALL, device=CPU)
    monkeypatch.setattr("open_clip.download_pretrained", refuse)
    with pytest.raises(DirePlugError, match=r"clip cannot be fetched \(no route to host\); get open_clip_model\.safe"):
        load_pretrained("clip", device=CPU)


def test_clip_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(
        DirePlugError, match=r"clip needs the package open_clip_torch .*; pip install 'dire-plug\[clip\]'"
    ):
        load_pretrained("clip", device=CPU, random=0)


def test_a_file_that_could_run_code_is_not_loaded(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"fc.weight": Source}, path)
    with pytest.raises(DirePlugError, match="cannot be read as weights without running code"):
        load_pretrained(SMALL, device=CPU, weights=path)


def _write(path: Path, content: object) -> Path:
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    return path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"nothing", "cannot be read as weights"),
        ([torch.zeros(2)], "holds no state dict"),
        (
            {"fc.weight": torch.zeros(2)},
            r"doesn't hold the weights of torchvision:shufflenet_v2_x0_5: \d+ of \d+ don't",
        ),
    ],
)
def test_a_file_of_something_else_is_refused(content: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(DirePlugError, match=message):
        load_pretrained(SMALL, device=CPU, weights=_write(tmp_path / "weights.pth", content))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: check_pretrained("clp"), r"'clp' is unknown \(did you mean 'clip'\?\)"),
        (lambda: check_pretrained("torchvision:resnet5"), r"did you mean 'torchvision:resnet50'\?"),
        (lambda: check_pretrained("resnet50"), r"did you mean 'torchvision:resnet50'\?"),
        (lambda: load_pretrained("torchvision:vit", device=CPU, random=0), "is unknown"),
        (lambda: load_pretrained("torchvision:squeezenet1_1", device=CPU, random=0), "has no linear layer"),
        (lambda: load_pretrained(SMALL, device=CPU, weights=Path("nowhere.pth")), r"nowhere\.pth: no such file"),
    ],
)
def test_what_cannot_be_loaded_is_refused_by_name(call: Callable[[], object], message: str) -> None:
    with pytest.raises(DirePlugError, match=message):
        call()


def test_every_classifier_of_torchvision_is_known() -> None:
    for name in ("resnet50", "vit_b_16", "efficientnet_v2_s"):
        check_pretrained(f"torchvision:{name}")
    check_pretrained("clip")


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (torch.zeros(3, 8, 8), r"\[3, 8, 8\]; \[n, 3, h, w\]"),
        (torch.zeros(0, 3, 8, 8), r"\[0, 3, 8, 8\]"),
        (torch.full((1, 3, 8, 8), 1.5), r"from 1.5 to 1.5; expected uint8 or float in \[0, 1\]"),
        (torch.full((1, 3, 8, 8), np.nan), "from nan to nan"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.int64), "torch.int64"),
    ],
)
def test_other_images_are_refused(batch: Tensor, message: str) -> None:
    network = load_pretrained(SMALL, device=CPU, random=0)
    with pytest.raises(DirePlugError, match=message):
        network.embed(batch)
