"""Condensed sets as others leave them: folder trees and tensor files, their labels and space, and what is refused."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Generator, Tensor

from dire_plug.data.augmentation.zca import fit
from dire_plug.data.dataset import Dataset, make_tensor_dataset
from dire_plug.errors import DirePlugError
from dire_plug.sets.condensed import CondensedSet, Space, read_condensed, read_space

CLASSES = ("cat", "dog", "ship")
SIZE = 8


def draw(count: int, *, seed: int = 0, size: int = SIZE) -> Tensor:
    """Draw grey levels, uint8, [count, 3, size, size]."""
    return torch.randint(0, 256, (count, 3, size, size), generator=Generator().manual_seed(seed), dtype=torch.uint8)


def make_real(classes: tuple[str, ...] = CLASSES) -> Dataset:
    labels = torch.arange(len(classes)).repeat(5)
    return make_tensor_dataset(
        "pets", train=(draw(len(labels)), labels), test=(draw(len(labels)), labels), classes=classes
    )


def write_tree(
    root: Path, names: list[str], *, per_class: int = 2, size: int = SIZE, name: str = "id{:03d}.png"
) -> Tensor:
    """Write a folder per name, in the order of the labels; return the images, [n, 3, size, size]."""
    images = draw(len(names) * per_class, seed=1, size=size)
    for index, image in enumerate(images):
        folder = root / names[index // per_class]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / name.format(index % per_class))
    return images


@pytest.fixture
def real() -> Dataset:
    return make_real()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return tmp_path / "set"


def refusal(path: Path, real: Dataset, **options: Any) -> str:
    with pytest.raises(DirePlugError) as caught:
        read_condensed(path, real, **options)
    return str(caught.value)


# Trees of class folders.


@pytest.mark.parametrize(
    ("names", "rule"),
    [
        (["cat", "dog", "ship"], "folders are named after the classes"),
        (["new000", "new001", "new002"], "folders are labelled by their numbers: new000 is cat, new002 ship"),
        (["00000", "00001", "00002"], "folders are labelled by their numbers: 00000 is cat, 00002 ship"),
        (["1", "2", "3"], "folders are labelled by their numbers: 1 is cat, 3 ship"),
        (["a", "b", "x1"], "folders are labelled by their names in alphabetical order: a is cat, x1 ship"),
        (
            ["new000", "new001", "new003"],
            "folders are labelled by their names in alphabetical order: new000 is cat, new003 ship",
        ),
    ],
)
def test_the_names_of_folders_give_the_labels_and_the_rule_is_told(
    tree: Path, real: Dataset, names: list[str], rule: str
) -> None:
    images = write_tree(tree, names)
    found = read_condensed(tree, real)
    assert torch.equal(found.images, images)
    assert found.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert found.notes == (rule,)


def test_class_folders_are_taken_in_the_order_of_the_classes(tree: Path) -> None:
    images = write_tree(tree, ["zebra", "ape"])
    assert torch.equal(read_condensed(tree, make_real(("zebra", "ape"))).images, images)


def test_numbers_are_read_as_numbers_so_that_ten_comes_after_two(tree: Path) -> None:
    names = [str(number) for number in range(11)]
    images = write_tree(tree, names, per_class=1)
    found = read_condensed(tree, make_real(tuple("abcdefghijk")))
    assert torch.equal(found.images, images)


def test_rdeds_tree_and_tiny_imagenets_folders_of_images_are_read(tree: Path, real: Dataset) -> None:
    write_tree(tree / "00000", ["images"], per_class=1, name="class00000_id{:05d}.jpg")
    write_tree(tree, ["00001", "00002"], per_class=1, name="class_id{:05d}.JPEG")
    (tree / ".cache").mkdir()
    assert read_condensed(tree, real).counts == [1, 1, 1]


def test_ipc_takes_the_first_images_of_each_class_by_name(tree: Path, real: Dataset) -> None:
    images = write_tree(tree, ["00000", "00001", "00002"], per_class=3)
    found = read_condensed(tree, real, ipc=2)
    assert torch.equal(found.images, images.reshape(3, 3, 3, SIZE, SIZE)[:, :2].flatten(0, 1))
    assert found.per_class == 2


def test_classes_may_hold_different_numbers_of_images(tree: Path, real: Dataset) -> None:
    write_tree(tree, ["00000", "00001", "00002"])
    (tree / "00001" / "id001.png").unlink()
    found = read_condensed(tree, real)
    assert (found.counts, found.per_class) == ([2, 1, 2], None)
    assert "class has 1 images, --ipc 2 were asked for; lower it" in refusal(tree, real, ipc=2)


def test_the_digest_depends_on_the_images_alone(tree: Path, tmp_path: Path, real: Dataset) -> None:
    images = write_tree(tree, ["cat", "dog", "ship"])
    found = read_condensed(tree, real)
    torch.save({"images": images, "labels": found.labels}, tmp_path / "same.pt")
    assert read_condensed(tmp_path / "same.pt", real).digest == found.digest
    images[0, 0, 0, 0] ^= 1
    torch.save({"images": images, "labels": found.labels}, tmp_path / "other.pt")
    assert read_condensed(tmp_path / "other.pt", real).digest != found.digest


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["cat", "dog"], "holds 2 class folders, pets has 3 classes; there is no folder for ship"),
        ([f"{number:05d}" for number in range(5)], "holds 5 class folders, pets has 3 classes; is it a set of another"),
        (["cat", "dog", "frog"], "'frog' is no class of pets, whose classes other folders are named after"),
    ],
)
def test_folders_that_are_not_the_datasets_classes_are_refused(
    tree: Path, real: Dataset, names: list[str], message: str
) -> None:
    write_tree(tree, names, per_class=1)
    assert message in refusal(tree, real)


def test_the_folder_above_the_class_folders_is_refused_with_the_right_one(tree: Path, real: Dataset) -> None:
    write_tree(tree / "syn_data", ["00000", "00001", "00002"])
    assert f"did you mean {tree / 'syn_data'}?" in refusal(tree, real)


def test_unsorted_images_are_refused(tree: Path, real: Dataset) -> None:
    write_tree(tree.parent, [tree.name])
    assert "its images lie unsorted: sort them into one folder per class" in refusal(tree, real)


def test_an_empty_class_is_refused_by_its_folder(tree: Path, real: Dataset) -> None:
    write_tree(tree, ["00000", "00001"])
    (tree / "00002").mkdir()
    (tree / "00002" / "readme.txt").touch()
    assert refusal(tree, real).startswith(f"{tree / '00002'}: the class has no image (.jpeg, .jpg, .png)")


def test_a_damaged_image_is_named(tree: Path, real: Dataset) -> None:
    write_tree(tree, ["00000", "00001", "00002"])
    path = tree / "00001" / "id001.png"
    path.write_bytes(path.read_bytes()[:40])
    assert refusal(tree, real).startswith(f"{path}: the image cannot be decoded")


def test_another_size_is_refused_and_resized_on_request(tree: Path, real: Dataset) -> None:
    write_tree(tree, ["00000", "00001", "00002"], size=12)
    assert "12×12 pixels, the real images of pets are 8×8 here; --resize resizes the set" in refusal(tree, real)
    found = read_condensed(tree, real, resize=True)
    assert tuple(found.images.shape) == (6, 3, SIZE, SIZE)
    assert found.images.dtype == torch.uint8
    assert found.notes[-1] == "images of another size were resized to 8×8"


def test_image_files_have_no_other_space_than_pixels(tree: Path, real: Dataset) -> None:
    write_tree(tree, ["00000", "00001", "00002"])
    assert "holds image files, which are pixels; leave it out" in refusal(tree, real, space=Space("zca"))


# Files of tensors.

LABELS = torch.tensor([2, 0, 1, 0, 1, 2])
ORDER = [1, 3, 2, 4, 0, 5]
"""The rows class by class."""


def save_mtt(folder: Path, images: Tensor) -> Path:
    torch.save(images, folder / "images_best.pt")
    torch.save(LABELS, folder / "labels_best.pt")
    return folder / "images_best.pt"


def save_dm(folder: Path, images: Tensor) -> Path:
    """Write as DM does: a pair for each experiment, and accuracies as numpy's scalars."""
    path = folder / "res_DM_CIFAR10_ConvNet_2ipc.pt"
    pairs = [[torch.zeros_like(images), LABELS], [images, LABELS]]
    torch.save({"data": pairs, "accs_all_exps": {"ConvNet": [np.float64(0.5), np.float64(0.25)]}}, path)
    return path


def save_npz(folder: Path, images: Tensor) -> Path:
    np.savez(folder / "set.npz", images=images.permute(0, 2, 3, 1).numpy(), labels=LABELS.numpy())
    return folder / "set.npz"


def save_tensors(folder: Path, images: Tensor) -> Path:
    save_file({"images": images, "labels": LABELS}, folder / "set.safetensors")
    return folder / "set.safetensors"


def save_pair(folder: Path, images: Tensor) -> Path:
    torch.save((images, LABELS[:, None].float()), folder / "set.pth")
    return folder / "set.pth"


@pytest.mark.parametrize("save", [save_mtt, save_dm, save_npz, save_tensors, save_pair])
@pytest.mark.parametrize("kind", ["grey levels", "floats"])
def test_tensor_files_are_read_class_by_class(tmp_path: Path, real: Dataset, save: Any, kind: str) -> None:
    images = draw(6) if kind == "grey levels" else draw(6) / 255
    found = read_condensed(save(tmp_path, images), real)
    assert torch.equal(found.images, images[ORDER])
    assert found.images.dtype == images.dtype
    assert found.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert found.loop is None


def test_where_images_and_labels_came_from_is_told(tmp_path: Path, real: Dataset) -> None:
    assert read_condensed(save_mtt(tmp_path, draw(6)), real).notes == ("labels are those of labels_best.pt",)
    assert read_condensed(save_dm(tmp_path, draw(6)), real).notes == ("the last of 2 sets",)


def test_grey_tensors_get_three_channels_and_an_ipc_takes_the_first(tmp_path: Path, real: Dataset) -> None:
    grey = draw(6)[:, :1]
    found = read_condensed(save_pair(tmp_path, grey), real, ipc=1)
    assert torch.equal(found.images, grey[[1, 2, 0]].expand(-1, 3, -1, -1))


def test_images_of_zca_that_mtt_inverted_have_their_labels_beside(tmp_path: Path, real: Dataset) -> None:
    torch.save(draw(6) / 255, tmp_path / "images_zca_5000.pt")
    torch.save(LABELS, tmp_path / "labels_5000.pt")
    assert read_condensed(tmp_path / "images_zca_5000.pt", real).notes == ("labels are those of labels_5000.pt",)


# Spaces.

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def test_normalised_images_become_pixels_and_their_own_values_are_kept(tmp_path: Path, real: Dataset) -> None:
    loop = 3 * torch.randn(6, 3, SIZE, SIZE, generator=Generator().manual_seed(0))
    loop[:, 0] = (0.25 - MEAN[0]) / STD[0]
    found = read_condensed(save_mtt(tmp_path, loop), real, space=Space("normalised", MEAN, STD))
    assert found.loop is not None
    assert torch.equal(found.loop, loop[ORDER])
    torch.testing.assert_close(found.images[:, 0], torch.full((6, SIZE, SIZE), 0.25))
    by_hand = (loop[ORDER][:, 2] * STD[2] + MEAN[2]).clamp(0, 1)
    torch.testing.assert_close(found.images[:, 2], by_hand)
    outside = (loop * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None] - 0.5).abs() > 0.5
    assert found.notes[-1].startswith(f"{float(outside.double().mean()):.1%} of the values lay outside [0, 1]")


def test_whitened_images_are_inverted_by_the_whitening_of_the_real_ones(tmp_path: Path, real: Dataset) -> None:
    pixels = draw(6) / 255
    whitened = fit(real.train.images() / 255).apply(pixels)
    found = read_condensed(save_mtt(tmp_path, whitened), real, space=Space("zca"))
    torch.testing.assert_close(found.images, pixels[ORDER], atol=1e-4, rtol=0)


def test_pixels_out_of_range_are_refused_with_the_options_or_cut_off(tmp_path: Path, real: Dataset) -> None:
    path = save_mtt(tmp_path, torch.linspace(-1, 2, 6 * 3 * SIZE**2).reshape(6, 3, SIZE, SIZE))
    message = refusal(path, real)
    assert "values from -1 to 2 aren't pixels in [0, 1]. Name their space: --normalised-by" in message
    found = read_condensed(path, real, space=Space("pixels"))
    assert (float(found.images.min()), float(found.images.max()), found.loop) == (0, 1, None)
    assert found.notes[-1].startswith("66.7% of the values lay outside")


def test_grey_levels_as_floats_are_refused_with_a_hint(tmp_path: Path, real: Dataset) -> None:
    assert "Pixels from 0 to 255? Save them as uint8." in refusal(save_mtt(tmp_path, draw(6).float()), real)


def test_grey_levels_have_no_other_space_than_pixels(tmp_path: Path, real: Dataset) -> None:
    message = refusal(save_mtt(tmp_path, draw(6)), real, space=Space("normalised", MEAN, STD))
    assert "holds uint8 images, which are pixels; leave it out" in message


def test_spaces_are_read_from_a_dataset_or_from_numbers() -> None:
    assert read_space(None, None) is None
    assert read_space("pixels", None) == Space("pixels")
    assert read_space(None, "cifar-10") == Space("normalised", (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
    assert read_space("normalised", "0.5,0.4,0.3, 0.2,0.25,0.3") == Space("normalised", MEAN, STD)


@pytest.mark.parametrize(
    ("kind", "normalised_by", "message"),
    [
        ("normalised", None, "--space normalised: by what? Add --normalised-by"),
        ("zca", "cifar-10", "--normalised-by contradicts --space zca"),
        (None, "cifar10", "statistics are known (did you mean 'cifar-10'?)"),
        (None, "1,2,3", "nor six numbers by comma"),
        (None, "0,0,0,1,1,0", "a standard deviation must be greater than 0"),
    ],
)
def test_a_space_that_says_too_little_or_too_much_is_refused(
    kind: str | None, normalised_by: str | None, message: str
) -> None:
    with pytest.raises(DirePlugError) as caught:
        read_space(kind, normalised_by)
    assert message in str(caught.value)


# What tensor files are refused for.


class Code:
    """Something that a pickle would have to import."""


def keep(content: Any) -> Any:
    return lambda path: torch.save(content, path)


def with_labels(labels: Any, images: Tensor | None = None) -> Any:
    return keep({"images": draw(6) if images is None else images, "labels": labels})


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (keep({"state": 1}), "holds the keys state; expected images and labels under keys such as images and labels"),
        (keep([draw(6)]), "holds a list; expected images and labels"),
        (keep({"images": Code(), "labels": LABELS}), "which could run code, so it is not loaded"),
        (keep(draw(6)), "holds one tensor, and its labels are not in set_labels.pt beside it"),
        (with_labels(torch.eye(3)[LABELS]), "the labels' shape is [6, 3] for 6 images; one class number an image"),
        (with_labels(LABELS[:4]), "the labels' shape is [4] for 6 images"),
        (with_labels(LABELS + 0.5), "labels must be class numbers, and these have fractions"),
        (with_labels(LABELS + 1), "its labels go from 1 to 3, pets has 3 classes, 0 to 2; is it a set of another"),
        (with_labels(LABELS.clamp(max=1)), "no image of class 2 (ship): it holds 2 classes, pets has 3"),
        (with_labels(LABELS, draw(6)[:, 0]), "the images' shape is [6, 8, 8]; expected [n, 3, h, w]"),
        (with_labels(LABELS[:0], draw(0)), "the images' shape is [0, 3, 8, 8]"),
        (with_labels(LABELS, draw(6) / torch.zeros(())), "6 of 6 images hold NaN or infinity"),
        (with_labels(LABELS, draw(6).int() * 2), "torch.int32 images with values outside 0 … 255"),
        (with_labels(LABELS, draw(6, size=9)), "9×9 pixels, the real images of pets are 8×8 here"),
        (lambda path: path.write_bytes(b"no tensors"), "isn't a file of torch.save's"),
        (lambda path: path.touch(), "cannot be read"),
    ],
)
def test_a_file_that_is_no_set_of_the_dataset_is_refused(
    tmp_path: Path, real: Dataset, write: Any, message: str
) -> None:
    path = tmp_path / "set.pt"
    write(path)
    found = refusal(path, real)
    assert found.startswith(f"{path}: ")
    assert message in found


EXPANDED = torch.zeros(1, dtype=torch.uint8).expand(6, 3, 40_000, 40_000)
"""28.8 GB by its shape, one byte in the file."""


def quantize(images: Tensor) -> Tensor:
    """Return integers with a scale, in the way of torch that goes with a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(images.float(), 1.0, 0, torch.quint8)


def nest(rows: list[Tensor]) -> Tensor:
    """Return a tensor of tensors of any lengths, in the way of torch that goes with a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.nested.nested_tensor(rows)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (with_labels(LABELS, EXPANDED), "the images are an expanded tensor: 28,800,000,000 bytes by their shape, 1 in"),
        (with_labels(torch.zeros(1).expand(10**10)), "the labels are an expanded tensor"),
        (with_labels(LABELS, draw(6).float().to_sparse()), "the images are a tensor of the kind sparse_coo; save a"),
        (with_labels(LABELS.to_sparse()), "the labels are a tensor of the kind sparse_coo"),
        (with_labels(LABELS, draw(6).to("meta")), "the images are a tensor of the kind meta"),
        (with_labels(LABELS.to("meta")), "the labels are a tensor of the kind meta"),
        (with_labels(LABELS, quantize(draw(6))), "the images are a tensor of the kind quantized"),
        (with_labels(LABELS, draw(6).to(torch.uint16)), "the images are a tensor of the kind uint16"),
        (with_labels(LABELS.to(torch.uint64)), "the labels are a tensor of the kind uint64"),
        (with_labels(LABELS, draw(6).float().to(torch.float8_e5m2)), "the images are a tensor of the kind float8_e5m2"),
        (with_labels(LABELS, draw(6).to(torch.complex64)), "the images are a tensor of the kind complex64"),
        (with_labels(LABELS, draw(6, size=0)), "the images' shape is [6, 3, 0, 0]; expected [n, 3, h, w]"),
    ],
)
def test_a_tensor_that_cannot_be_computed_with_is_refused(
    tmp_path: Path, real: Dataset, write: Any, message: str
) -> None:
    path = tmp_path / "set.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write(path)
        found = refusal(path, real, resize=True)
    assert found.startswith(f"{path}: {message}")


def test_nested_tensors_are_refused(tmp_path: Path, real: Dataset) -> None:
    path = tmp_path / "set.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with_labels(LABELS, nest(list(draw(6).float())))(path)
        found = refusal(path, real)
    # from 2.15 on, torch itself doesn't load them with weights_only
    told = ("the images are a tensor of the kind nested", "holds more than tensors and plain values")
    assert any(words in found for words in told), found


def test_a_flipped_byte_in_an_archive_is_a_damaged_file(tmp_path: Path, real: Dataset) -> None:
    path = tmp_path / "set.npz"
    np.savez_compressed(path, images=draw(6).numpy(), labels=LABELS.numpy())
    content = bytearray(path.read_bytes())
    for place in range(60, 900, 60):
        content[place] ^= 0xFF
    path.write_bytes(content)
    assert refusal(path, real).startswith(f"{path}: cannot be read as arrays without pickles")


def test_a_loops_images_of_another_number_are_refused(tmp_path: Path, real: Dataset) -> None:
    path = tmp_path / "set.safetensors"
    save_file({"images": draw(6), "labels": LABELS, "loop": draw(4).float()}, path)
    assert "'loop' has the shape [4, 3, 8, 8], the images [6, 3, 8, 8]" in refusal(path, real)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_a_damaged_file_of_another_kind_is_refused(tmp_path: Path, real: Dataset, suffix: str) -> None:
    path = tmp_path / f"set{suffix}"
    path.write_bytes(b"nothing of the kind")
    assert refusal(path, real).startswith(f"{path}: cannot be read as ")


def test_a_files_ipc_is_at_most_what_each_class_has(tmp_path: Path, real: Dataset) -> None:
    message = refusal(save_mtt(tmp_path, draw(6)), real, ipc=3)
    assert "class 0 (cat) has 2 images, --ipc 3 were asked for; lower it" in message


def test_tensors_of_another_size_are_resized_on_request(tmp_path: Path, real: Dataset) -> None:
    found = read_condensed(save_mtt(tmp_path, draw(6, size=16) / 255), real, resize=True)
    assert tuple(found.images.shape) == (6, 3, SIZE, SIZE)
    assert found.notes[-1] == "resized from 16×16 to 8×8"


def test_a_path_that_is_nothing_of_the_kind_is_refused(tmp_path: Path, real: Dataset) -> None:
    assert "no such file or folder" in refusal(tmp_path / "nowhere", real)
    (tmp_path / "set.tar").touch()
    assert "neither a folder nor a file of tensors (.safetensors, .pt, .pth, .npz)" in refusal(
        tmp_path / "set.tar", real
    )


def test_a_folder_of_tensor_files_is_refused_with_their_names(tmp_path: Path, real: Dataset) -> None:
    save_mtt(tmp_path, draw(6))
    assert "name the file: images_best.pt, labels_best.pt" in refusal(tmp_path, real)


def test_a_set_tells_what_it_is_as_json(tree: Path, real: Dataset) -> None:
    write_tree(tree, ["cat", "dog", "ship"])
    found: CondensedSet = read_condensed(tree, real)
    assert found.to_json() == {
        "images": 6,
        "classes": 3,
        "per_class": {"least": 2, "most": 2},
        "digest": found.digest,
        "notes": ["folders are named after the classes"],
    }
