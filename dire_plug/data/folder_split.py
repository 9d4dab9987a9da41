"""A split of image files that are read on demand."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from dire_plug.data.folders import File, decode_cropped, label_tensor


@dataclass(frozen=True, eq=False)
class FolderSplit:
    """A split whose images are read on demand, each time they are asked for.

    Attributes:
        root: the folder that the paths are told relative to.
        files: the images.
        size: height and width that they are resized and cropped to.
        labels: [N], int64.
    """

    root: Path
    files: tuple[File, ...]
    size: int
    labels: Tensor

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.files)

    def images(self, indices: Tensor | None = None) -> Tensor:
        """Decode the images at `indices`, or all (only where memory holds them): uint8, [n, 3, size, size]."""
        chosen = self.files if indices is None else [self.files[index] for index in indices.tolist()]
        return decode_cropped(chosen, size=self.size)

    def describe(self) -> Iterable[bytes]:
        """Yield what determines this split: each file's relative path, size in bytes, and label."""
        for file in self.files:
            yield f"{file.path.relative_to(self.root).as_posix()}\0{file.bytes}\0{file.label}\n".encode()


def make_folder_split(root: Path, files: Sequence[File], *, size: int) -> FolderSplit:
    """Put a split of files together."""
    return FolderSplit(root=root, files=tuple(files), size=size, labels=label_tensor(files))
