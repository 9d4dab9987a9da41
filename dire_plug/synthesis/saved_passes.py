"""Write and read finished passes and slots, from which an interrupted synthesis resumes."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from dire_plug.errors import DirePlugError, DivergedError
from dire_plug.files import write_atomically, write_json
from dire_plug.synthesis.recording import LossRecord, join_losses, losses_of_slot
from dire_plug.types import EXTRAS, Plan, Slot

STATE = "state/"
BATCH = "batch"


def pass_file(folder: str | Path, pass_index: int) -> Path:
    """Return the file of one finished pass: what plugins keep. The images of its slots lie beside it."""
    return Path(folder) / f"pass-{pass_index:03d}.safetensors"


def slot_file(folder: str | Path, slot: Slot) -> Path:
    """Return the file of one finished slot; it counts when its pass is finished, or as `find_finished` says."""
    return Path(folder) / f"pass-{slot.pass_index:03d}-batch-{slot.batch_index:04d}.safetensors"


def save_slot(folder: str | Path, slot: Slot, *, images: Tensor, labels: Tensor, index: Tensor) -> None:
    """Write the images of a finished slot atomically.

    Args:
        images: [N, 3, H, W], in the loop's own space.
        labels, index: [N]: the class of each image, and which image of the class it is.
    """
    tensors = {"images": images.contiguous(), "labels": labels, "index": index}
    write_atomically(slot_file(folder, slot), save(tensors))


def read_slot(folder: str | Path, slot: Slot) -> tuple[Tensor, Tensor]:
    """Return the images [N, 3, H, W], in the loop's own space, and labels [N] of a finished slot."""
    found = _read(slot_file(folder, slot))
    return found["images"], found["labels"]


def _random_file(folder: str | Path, pass_index: int) -> Path:
    return Path(folder) / f"random-{pass_index:03d}.safetensors"


def save_random_state(folder: str | Path, slot: Slot, state: Mapping[str, Tensor]) -> None:
    """Write the random state after a finished slot, in place of that after the slot before."""
    tensors = {BATCH: torch.tensor(slot.batch_index), **state}
    write_atomically(_random_file(folder, slot.pass_index), save(tensors))


def find_seeded(folder: str | Path, pass_index: int, *, slots: int) -> set[int]:
    """Return which of the `slots` batches of an unfinished pass are finished, where each is seeded by itself."""
    return {batch for batch in range(slots) if _is_there(folder, Slot(pass_index, batch))}


def seeded_files(slot: Slot) -> tuple[str, str]:
    """Return the names of the two files that make up a finished batch which is seeded by itself."""
    return slot_file("", slot).name, losses_of_slot("", slot).name


def join_batches(folder: str | Path, pass_index: int, *, slots: int) -> None:
    """Finish a pass whose batches, each seeded by itself, are all there."""
    join_losses(folder, pass_index, slots=slots)
    save_pass(folder, pass_index, {})


def find_finished(folder: str | Path, pass_index: int, *, device: str) -> tuple[set[int], dict[str, Tensor]]:
    """Return the first batches of an unfinished pass, which needn't be made again, and the random state after them.

    Both are empty where there are none, or a device of another kind made them, whose random state can't be put back.
    """
    file = _random_file(folder, pass_index)
    state = _read(file) if file.is_file() else {}
    if not state or ("cuda" in state) != device.startswith("cuda"):
        return set(), {}
    finished = set(range(int(state.pop(BATCH)) + 1))
    # written before the random state, so they are there unless somebody removed them
    return (finished, state) if all(_is_there(folder, Slot(pass_index, batch)) for batch in finished) else (set(), {})


def _is_there(folder: str | Path, slot: Slot) -> bool:
    return slot_file(folder, slot).is_file() and losses_of_slot(folder, slot).is_file()


def save_pass(folder: str | Path, pass_index: int, state: dict[str, dict[str, Tensor]]) -> None:
    """Write atomically that a pass is finished, and what plugins keep: plugin → name → tensor."""
    tensors = {"pass": torch.tensor(pass_index)}
    for plugin, kept in state.items():
        tensors |= {f"{STATE}{plugin}/{name}": tensor.detach().cpu() for name, tensor in kept.items()}
    write_atomically(pass_file(folder, pass_index), save({name: t.contiguous() for name, t in tensors.items()}))


def load_state(folder: str | Path, pass_index: int, device: str) -> dict[str, dict[str, Tensor]]:
    """Return what plugins kept after a pass; nothing before the first.

    Raises:
        DirePlugError: that pass isn't finished, or its file is damaged.
    """
    if pass_index < 0:
        return {}
    state: dict[str, dict[str, Tensor]] = {}
    for name, tensor in _read(pass_file(folder, pass_index)).items():
        if name.startswith(STATE):
            plugin, _, key = name.removeprefix(STATE).partition("/")
            state.setdefault(plugin, {})[key] = tensor.to(device)
    return state


def collect(folders: Mapping[int, Path]) -> tuple[Tensor, Tensor, Tensor]:
    """Return images [N, 3, H, W] (in the loop's space), labels and image numbers [N] of passes, by class.

    Args:
        folders: number of a pass → the folder that holds it.
    """
    files = (sorted(folder.glob(f"pass-{index:03d}-batch-*.safetensors")) for index, folder in folders.items())
    read = [_read(file) for of_pass in files for file in of_pass]
    images, labels, index = (torch.cat([one[key] for one in read]) for key in ("images", "labels", "index"))
    # by class, then by the number of the image: one key for both, since argsort takes one
    order = torch.argsort(labels * (int(index.max()) + 1) + index)
    return images[order], labels[order], index[order]


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except Exception as error:
        raise DirePlugError(f"{path}: a finished pass cannot be read ({error}); remove it to run it again") from error


# The running pass.


class CurrentPass:
    """One pass of the plan, slot by slot.

    Attributes:
        slot: where the loop is; its batch is -1 before the first slot.
        state: plugin → name → tensor that the plugin keeps.
    """

    def __init__(
        self,
        folder: str,
        plan: Plan,
        *,
        index: int = 0,
        state: dict[str, dict[str, Tensor]] | None = None,
        finished: Collection[int] = (),
        batches: Collection[int] | None = None,
    ) -> None:
        """Begin before the first slot.

        Args:
            folder: of the finished passes.
            state: as the pass before left it; None: there is none.
            finished: batches that were finished before.
            batches: those to make; None: all.
        """
        self._folder = folder
        self._plan = plan
        self._wanted = set(range(plan.slots_per_pass) if batches is None else batches)
        self._is_part = batches is not None
        self._done: set[int] = set()
        self._leaf: tuple[Tensor, Tensor] | None = None
        self._learned: dict[str, Tensor] = {}
        self._before = finished
        self.slot = Slot(index, -1)
        self.state = {} if state is None else state

    @property
    def in_last_slot(self) -> bool:
        """Whether no other slot of the pass follows."""
        return self.slot.batch_index + 1 == self._plan.slots_per_pass

    @property
    def slot_is_finished(self) -> bool:
        """Whether the slot was finished before, by a process that was interrupted."""
        return self.slot.batch_index in self._before

    @property
    def slot_is_left_out(self) -> bool:
        """Whether the slot isn't made here: it was finished before, or isn't among those to make."""
        # a batch that the plan hasn't is told as such when its labels are asked for
        left_out = self._is_part and self.slot.batch_index not in self._wanted
        return self.slot_is_finished or left_out

    def next_slot(self) -> None:
        """Go on to the next slot."""
        self.slot = Slot(self.slot.pass_index, self.slot.batch_index + 1)
        if self.slot_is_finished:
            self._done.add(self.slot.batch_index)

    def hold(self, images: Tensor, labels: Tensor) -> None:
        """Remember the optimised leaf [N, 3, H, W] of the slot, whose values still change, and its labels [N]."""
        self._leaf = (images, labels)

    @property
    def holds_images(self) -> bool:
        """Whether the slot has images that aren't on disk."""
        return self._leaf is not None

    def take_images(self) -> tuple[Tensor, Tensor]:
        """Return copies of the slot's images and labels as they are now, and drop them.

        Raises:
            DivergedError: the images aren't finite.
        """
        assert self._leaf is not None
        # copies: the script's optimiser still holds the leaf
        images, labels = (tensor.detach().clone() for tensor in self._leaf)
        if not torch.isfinite(images).all():
            raise DivergedError(
                f"the images of pass {self.slot.pass_index}, batch {self.slot.batch_index} are not finite: the "
                "synthesis diverged; lower the learning rate or the weights of the terms"
            )
        self._leaf = None
        return images, labels

    def save(self, images: Tensor, labels: Tensor) -> None:
        """Write the final images of the slot, which counts as finished then.

        Raises:
            DirePlugError: the plan has another number of images.
        """
        index = self._plan.slot(self.slot).images
        if len(index) != len(images):
            raise DirePlugError(f"{self.slot}: the script made {len(images)} images where the plan has {len(index)}")
        save_slot(self._folder, self.slot, images=images.cpu(), labels=labels.cpu().long(), index=torch.tensor(index))
        self._done.add(self.slot.batch_index)

    def keep(self, values: Mapping[str, Tensor]) -> None:
        """Remember what the script learns beside the images; it is read when the pass ends."""
        # not read yet: a value changes in place until the pass ends
        self._learned = {name: value.detach() for name, value in values.items()}

    def end(self, record: LossRecord) -> None:
        """Write what the script learned, the record of the losses and, last, what plugins keep.

        Where some of the batches were to be made, nothing is written: they are finished each by itself.

        Raises:
            DirePlugError: a slot of the plan is missing.
        """
        if not self._done >= self._wanted:
            raise DirePlugError(
                f"pass {self.slot.pass_index} of the script finished {len(self._done & self._wanted)} of "
                f"{len(self._wanted)} batches; nothing of this pass is kept"
            )
        if self._is_part:
            return
        if self._learned:
            write_json(Path(self._folder) / EXTRAS, {name: value.tolist() for name, value in self._learned.items()})
        # the pass counts as finished once its own file is there, so that one is written last
        record.save(self._folder, self.slot.pass_index)
        save_pass(self._folder, self.slot.pass_index, self.state)
