"""Batches that are read ahead for the pretended GPU: the same images, and no wait of the host."""

from pathlib import Path

import torch
from PIL import Image
from support.pretended_gpu import DEVICE, back, counted, device_present

from dire_plug.data.folders import list_images, make_folder_split
from dire_plug.data.reading import read_batches
from dire_plug.training.students import in_batches


def test_batches_of_files_go_to_the_device_without_a_wait(tmp_path: Path) -> None:
    for number in range(5):
        Image.new("RGB", (12, 10), (40 * number, 5, 9)).save(tmp_path / f"{number}.png")
    split = make_folder_split(tmp_path, list_images(tmp_path, 0), size=8)
    with device_present(), counted() as counts:
        parts = torch.split(torch.arange(5), 2)
        found = [
            (back(images), back(labels)) for images, labels in read_batches(split, parts, device=torch.device(DEVICE))
        ]
    assert not counts.waits
    assert torch.equal(torch.cat([images for images, _ in found]), split.images())
    assert torch.equal(torch.cat([labels for _, labels in found]), split.labels)


def test_test_images_of_the_host_go_to_the_device_without_a_wait() -> None:
    images, labels = torch.arange(60, dtype=torch.uint8).view(5, 3, 2, 2), torch.arange(5)
    with device_present(), counted() as counts:
        batches = in_batches(images, labels, device=torch.device(DEVICE), batch=2)
        found = [(back(some), back(own)) for some, own in batches]
    assert not counts.waits
    assert counts.launches.total() == 6
    assert torch.equal(torch.cat([some for some, _ in found]), images)
    assert torch.equal(torch.cat([own for _, own in found]), labels)
