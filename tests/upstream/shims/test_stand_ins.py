"""Stand-ins for what scripts import or open: wandb, prefetch_generator, CIFAR, files at fixed paths."""

import argparse
import importlib
import importlib.util
import json
import os
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from support.shim_isolation import run_as_upstream, shims_put_back
from torch.utils.data import DataLoader
from torchvision import transforms

from dire_plug.errors import DirePlugError
from dire_plug.files import make_folder
from dire_plug.upstream import shims
from dire_plug.upstream.source.tree import write_manifest


@pytest.fixture(autouse=True)
def child_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Work in a folder of the test's own, and put everything back that a shim replaces."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    with shims_put_back():
        yield


LOGGING = """
import wandb
if not wandb.api.api_key:
    wandb.login(key="")
before = wandb.run
wandb.init(sync_tensorboard=False, project="p", job_type="j", config=args)
wandb.config.update({"late": 3}, allow_val_change=True)
class Back: pass
back = Back()
for key in wandb.config._items:
    setattr(back, key, wandb.config._items[key])
wandb.log({"loss": 1.0, "image": wandb.Image(args.image), "pixels": wandb.Histogram(args.image)}, step=0)
wandb.watch(args.image)
attribute, item = wandb.config.lr, wandb.config["lr"]
name = wandb.run.name
wandb.finish()
named = wandb.init(project="p", name="exp").name
"""


def run_logging(path: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Run a script that uses wandb as the seven upstreams do."""
    path.write_text("")
    sys.modules["handed_over"] = holder = ModuleType("handed_over")
    holder.__dict__["args"] = args
    try:
        return run_as_upstream(path, "from handed_over import args\n" + LOGGING)
    finally:
        del sys.modules["handed_over"]


def test_wandb_gives_settings_back_and_leaves_nothing_behind(tmp_path: Path) -> None:
    shims.install({}, device="cpu")
    args = argparse.Namespace(lr=0.1, im_size=(32, 32), image=torch.zeros(3, 2, 2))
    made = run_logging(tmp_path / "script.py", args)
    assert vars(made["back"]) == {"lr": 0.1, "im_size": (32, 32), "image": args.image, "late": 3}
    assert (made["attribute"], made["item"], made["before"]) == (0.1, 0.1, None)
    assert (made["name"], made["named"]) == ("run", "exp")
    assert os.listdir() == []


def test_the_name_of_a_run_that_has_none_can_be_chosen(tmp_path: Path) -> None:
    shims.install({"wandb": {"run_name": "ours"}}, device="cpu")
    made = run_logging(tmp_path / "script.py", argparse.Namespace(lr=0.1, image=None))
    assert made["name"] == "ours"


def test_wandb_stands_in_for_an_installed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "site" / "wandb").mkdir(parents=True)
    (tmp_path / "site" / "wandb" / "__init__.py").write_text("raise AssertionError('the real one')")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    sys.modules["wandb.sdk"] = ModuleType("wandb.sdk")
    shims.install({}, device="cpu")
    assert importlib.import_module("wandb").login() is True
    assert "wandb.sdk" not in sys.modules
    assert importlib.util.find_spec("wandb") is not None  # raises for a module without a spec


def test_a_setting_that_wandb_lacks_is_an_attribute_error() -> None:
    shims.install({}, device="cpu")
    config = importlib.import_module("wandb").init(config={"lr": 1}).config
    assert "lr" in config
    assert not hasattr(config, "momentum")
    assert config.get("momentum", 2) == 2


def test_a_prefetched_loader_yields_the_same_in_this_thread() -> None:
    shims.install({"prefetch": {}}, device="cpu")
    background: Any = importlib.import_module("prefetch_generator").BackgroundGenerator

    class Prefetched(DataLoader[int]):
        def __iter__(self) -> Any:
            return background(super().__iter__())

    loader = Prefetched([1, 2, 3], batch_size=2)  # type: ignore[arg-type]
    batches = [batch.tolist() for _, batch in enumerate(loader)]
    assert batches == [[1, 2], [3]]
    drawn: list[str] = []

    def draw() -> Iterator[int]:
        drawn.append("now")
        yield torch.zeros(1, device="cuda").numel()

    waiting = background(draw(), max_prefetch=4)
    assert drawn == []
    assert next(waiting) == 1


def write_images(path: Path, metadata: dict[str, str] | None = None) -> dict[str, torch.Tensor]:
    """Write a dataset of five training and two test images, 8×8."""
    generator = torch.Generator().manual_seed(0)
    content = {
        "train.images": torch.randint(256, (5, 3, 8, 8), generator=generator, dtype=torch.uint8),
        "train.labels": torch.tensor([0, 1, 2, 1, 0]),
        "test.images": torch.randint(256, (2, 3, 8, 8), generator=generator, dtype=torch.uint8),
        "test.labels": torch.tensor([2, 0]),
    }
    save_file(content, str(path), metadata)
    return content


@pytest.mark.parametrize("name", ["CIFAR10", "CIFAR100"])
def test_cifar_is_served_from_our_images(tmp_path: Path, name: str) -> None:
    content = write_images(tmp_path / "images.safetensors", {"classes": json.dumps(["a", "b", "c"])})
    shims.install({"cifar": {"file": str(tmp_path / "images.safetensors")}}, device="cpu")
    make = getattr(torchvision.datasets, name)
    for split, train in (("train", True), ("test", False)):
        found = make("/nowhere", train=train, download=True, transform=transforms.ToTensor())
        assert len(found) == len(content[f"{split}.labels"])
        assert found.targets == content[f"{split}.labels"].tolist()
        assert found.classes == ["a", "b", "c"]
        assert found.data.dtype == numpy.uint8
        assert numpy.array_equal(found.data, content[f"{split}.images"].permute(0, 2, 3, 1).numpy())
        image, label = found[1]
        assert torch.equal(image, content[f"{split}.images"][1].float() / 255)
        assert type(label) is int
    assert os.listdir() == []


def test_cifar_items_are_pil_images_and_classes_can_be_given(tmp_path: Path) -> None:
    write_images(tmp_path / "images.safetensors", {"classes": json.dumps(["a", "b", "c"])})
    shims.install({"cifar": {"file": str(tmp_path / "images.safetensors"), "classes": ["x", "y", "z"]}}, device="cpu")
    found = torchvision.datasets.CIFAR10(root=".", target_transform=str)
    assert isinstance(found[0][0], Image.Image)
    assert found[2][1] == "2"
    assert found.classes == ["x", "y", "z"]
    assert found.class_to_idx == {"x": 0, "y": 1, "z": 2}


def test_classes_without_names_are_numbers(tmp_path: Path) -> None:
    write_images(tmp_path / "images.safetensors")
    shims.install({"cifar": {"file": str(tmp_path / "images.safetensors")}}, device="cpu")
    assert torchvision.datasets.CIFAR100(".", train=False).classes == ["0", "1", "2"]


@pytest.mark.parametrize("content", [b"", b"not tensors at all", pickle.dumps([1])])
def test_a_file_that_is_no_dataset_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "images.safetensors").write_bytes(content)
    with pytest.raises(DirePlugError, match=r"images\.safetensors: cannot be read as a dataset"):
        shims.install({"cifar": {"file": str(tmp_path / "images.safetensors")}}, device="cpu")


def test_a_dataset_that_is_missing_or_lacks_a_tensor_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DirePlugError, match=r"none\.safetensors: cannot be read as a dataset"):
        shims.install({"cifar": {"file": str(tmp_path / "none.safetensors")}}, device="cpu")
    save_file({"train.images": torch.zeros(1)}, str(tmp_path / "half.safetensors"))
    with pytest.raises(DirePlugError, match=r"lacks train\.labels, test\.images, test\.labels; a dataset"):
        shims.install({"cifar": {"file": str(tmp_path / "half.safetensors")}}, device="cpu")


def test_images_that_are_no_bytes_are_refused(tmp_path: Path) -> None:
    content = write_images(tmp_path / "images.safetensors")
    save_file(content | {"train.images": torch.zeros(5, 3, 8, 8)}, str(tmp_path / "images.safetensors"))
    shims.install({"cifar": {"file": str(tmp_path / "images.safetensors")}}, device="cpu")
    with pytest.raises(
        DirePlugError, match=r"train\.images must be \[N, 3, H, W\] uint8 .* torch\.float32 with 5 labels"
    ):
        torchvision.datasets.CIFAR10(".")


def test_files_and_folders_stand_at_the_paths_that_a_script_hard_codes(tmp_path: Path) -> None:
    (tmp_path / "teacher.pt").write_text("weights")
    (tmp_path / "out").mkdir()
    links = {"pretrain/save/ckpt.pth": str(tmp_path / "teacher.pt"), "logged_files": str(tmp_path / "out")}
    for _ in range(2):  # a second child in the same folder finds its links there
        shims.install({"files": {"links": links}}, device="cpu")
    assert Path("./pretrain/save/ckpt.pth").read_text() == "weights"
    Path("./logged_files/new").write_text("kept")
    assert (tmp_path / "out" / "new").read_text() == "kept"


def test_code_in_a_linked_folder_can_be_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tree" / "models").mkdir(parents=True)
    (tmp_path / "tree" / "models" / "linked_network.py").write_text("WIDTH = 3\n")
    monkeypatch.setattr(sys, "path", sys.path.copy())
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    shims.install({"files": {"links": {"models": "{tree}/models"}}}, device="cpu", tree=tmp_path / "tree")
    source = "import sys\nsys.path.append('./models/')\nfrom linked_network import WIDTH\n"
    assert run_as_upstream(tmp_path / "tree" / "gen" / "script.py", source)["WIDTH"] == 3
    del sys.modules["linked_network"]


@pytest.mark.parametrize("name", ["../outside", "/absolute", "a/../../b", ".", ""])
def test_a_link_that_leaves_the_tree_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DirePlugError, match="must be a relative path inside upstream's tree"):
        shims.install({"files": {"links": {name: str(tmp_path)}}}, device="cpu")


def test_a_link_may_stand_beside_the_scripts_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "teacher.pt").write_text("weights")
    make_folder(tmp_path / "tree" / "recover")
    write_manifest(tmp_path / "tree", method="own", repository="", commit="", patches={})
    monkeypatch.chdir(tmp_path / "tree" / "recover")
    shims.install({"files": {"links": {"../pretrain/ckpt.pth": str(tmp_path / "teacher.pt")}}}, device="cpu")
    assert (tmp_path / "tree" / "pretrain" / "ckpt.pth").read_text() == "weights"
    with pytest.raises(DirePlugError, match="must be a relative path inside upstream's tree"):
        shims.install({"files": {"links": {"../../teacher.pt": str(tmp_path / "teacher.pt")}}}, device="cpu")


def test_a_link_to_nothing_or_over_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DirePlugError, match=r"ckpt\.pth: nothing to link at .*none\.pt; give an absolute path"):
        shims.install({"files": {"links": {"ckpt.pth": str(tmp_path / "none.pt")}}}, device="cpu")
    Path("taken").write_text("mine")
    with pytest.raises(DirePlugError, match=r"taken: cannot be linked to .*: File exists"):
        shims.install({"files": {"links": {"taken": str(tmp_path)}}}, device="cpu")
    assert Path("taken").read_text() == "mine"


def test_a_dataset_of_upstreams_own_is_served_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # put back in the end, as the shim puts another in its place
    monkeypatch.setitem(sys.modules, "their_dataset", ModuleType("their_dataset"))
    images, labels = torch.arange(3 * 3 * 4, dtype=torch.uint8).reshape(3, 3, 2, 2), torch.tensor([1, 0, 1])
    save_file({"train.images": images, "train.labels": labels}, file := tmp_path / "training.safetensors")
    options = {"file": str(file), "classes": 4, "also": "their_dataset.Theirs"}
    shims.install({"image_folder": options}, device="cpu")
    their_dataset = importlib.import_module("their_dataset")
    for train in (torchvision.datasets.ImageFolder("data/train"), their_dataset.Theirs("data", split="train")):
        assert (len(train), train.targets, len(train.classes)) == (3, [1, 0, 1], 4)
        assert train.samples == train.imgs == [(0, 1), (1, 0), (2, 1)]
    for test in (torchvision.datasets.ImageFolder("data/val"), their_dataset.Theirs("data", split="val")):
        assert (len(test), test[0][1]) == (1, 1)
