"""The hooks of an adapter whose plan says what each slot holds, and what every adapter answers alike.

A base class, since pluggy looks for hooks among an object's own methods.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel

from dire_plug.errors import DirePlugError
from dire_plug.home import resource
from dire_plug.hookspecs import hookimpl
from dire_plug.types import LoopInputs, Preparation, Script, Slot, Synthesis

if TYPE_CHECKING:
    from torch import Tensor


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class PlannedAdapter:
    """Answers the plan and start hooks from the synthesis's plan and start images."""

    name: str
    flags: ClassVar[Mapping[str, type[BaseModel]]]
    """Script → the model of its flags."""
    saves_images = True
    freezes_after_first_step = False
    grows = False

    def patches(self) -> Path:
        """Return the folder of this method's patches."""
        return resource("patches") / self.name

    def recipes(self) -> Path:
        """Return the folder of this method's recipes."""
        return resource("recipes") / self.name

    def flags_model(self, script: str) -> type[BaseModel]:
        """Return the model of the flags that a recipe may set for a script."""
        return self.flags[script]

    def read_flags(self, recover: Any) -> Any:
        """Return a recipe's flags as the script's model."""
        return self.flags[recover.script].model_validate(recover.flags)

    def steps(self, recover: Any) -> int:
        """Return the number of iterations of one slot: upstream's flag `iteration`."""
        iterations: int = self.read_flags(recover).iteration
        return iterations

    def pass_arguments(self, pass_index: int) -> tuple[str, ...]:
        """Return nothing: the script makes all of its images in one pass."""
        return ()

    def has_native(self, script: str) -> bool:
        """Tell that the native engine doesn't know this method."""
        return False

    def whitens(self, recover: Any) -> bool:
        """Tell that images are normalised, not whitened."""
        return False

    def preparations(self, inputs: LoopInputs) -> Sequence[Preparation]:
        """Return nothing: upstream's own code makes nothing before the loop."""
        return ()

    def expert(self, inputs: LoopInputs) -> tuple[str, Sequence[Tensor]]:
        """Refuse: nothing trained by upstream's own code can embed.

        Raises:
            DirePlugError: always.
        """
        raise DirePlugError(f"recover.embedder.network: {self.name} trains no experts; take teacher")

    @hookimpl
    def plan_labels(self, synthesis: Synthesis, slot: Slot, labels: Tensor) -> Tensor | None:
        """Return the plan's labels, [N]; None where they are upstream's own."""
        planned = list(synthesis.plan.slot(slot).labels)
        return None if labels.tolist() == planned else labels.new_tensor(planned)

    @hookimpl
    def image_index(self, synthesis: Synthesis, slot: Slot, position: int) -> int:
        """Return which image of its class a position holds."""
        return synthesis.plan.slot(slot).images[position]

    @hookimpl
    def initial_images(self, synthesis: Synthesis, slot: Slot, images: Tensor, labels: Tensor) -> Tensor | None:
        """Return the start images, [N, 3, H, W]; None where upstream's own noise has the right size.

        Noise of another size is a function of (seed, class, image), whatever the plan, so that arms start alike.
        """
        import torch

        from dire_plug.data.augment import normalise

        start, planned = synthesis.start_images, synthesis.plan.slot(slot)
        rows = torch.tensor(planned.labels), torch.tensor(planned.images)
        if start.kind == "real":
            if start.images is None:
                raise DirePlugError("the start is 'real', but the synthesis was given no images to start from")
            return normalise(start.images[rows].to(images.device), start.mean, start.std).to(images.dtype)
        if start.shape is None or start.shape == tuple(images.shape[1:]):
            return None
        noise = _noise(synthesis.seed, synthesis.classes, synthesis.plan.ipc, start.shape)
        return noise[rows].to(images.device, images.dtype)


def tiny_script(path: str, *, checkpoint: str = "model") -> Script:
    """Return a script of Tiny-ImageNet: 200 classes at 64 pixels, as SRe2L, CDA, DWA and DELT normalise them."""
    return Script(
        path=path,
        classes=200,
        size=64,
        mean=(0.4802, 0.4481, 0.3975),
        std=(0.2302, 0.2265, 0.2262),
        stem="small",
        checkpoint=checkpoint,
    )


def imagenet_script(path: str, *, checkpoint: str = "bare", suffix: str | None = None) -> Script:
    """Return a script of ImageNet-1K: 1000 classes at 224 pixels, normalised as torchvision's networks want them."""
    return Script(
        path=path,
        classes=1000,
        size=224,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        stem="imagenet",
        checkpoint=checkpoint,
        suffix=suffix,
    )


def image_path(label: int, image: int, suffix: str = ".jpg") -> str:
    """Return the file of an image, below the image folder, as every method that saves files names it."""
    return f"new{label:03d}/class{label:03d}_id{image:03d}{suffix}"


def to_arguments(flags: BaseModel) -> list[str]:
    """Return a command line in upstream's spelling: `--name value`; a switch stands alone; None is left out."""
    arguments: list[str] = []
    for name, value in flags.model_dump(by_alias=True, exclude_none=True).items():
        if isinstance(value, bool):
            arguments += [f"--{name}"] if value else []
        else:
            arguments += [f"--{name}", str(value)]
    return arguments


def teacher_problems(recipe: Any, known: Sequence[str]) -> list[tuple[str, str]]:
    """Return what is wrong with the one teacher of a loop: another architecture than the script builds, or others."""
    found = []
    squeeze, script = recipe.squeeze, recipe.recover.script
    if squeeze.teacher.architecture not in known:
        message = f"the script '{script}' takes {' or '.join(known)} (is '{squeeze.teacher.architecture}')"
        found.append(("squeeze.teacher.architecture", message))
    if squeeze.others:
        found.append(("squeeze.others", f"the script has one teacher; remove {', '.join(squeeze.others)}"))
    return found


@lru_cache(maxsize=1)
def _noise(seed: int, classes: int, ipc: int, shape: tuple[int, ...]) -> Tensor:
    """Return Gaussian noise for every image, [C, ipc, 3, H, W], from a generator of its own."""
    import torch

    return torch.randn((classes, ipc, *shape), generator=torch.Generator().manual_seed(seed))
