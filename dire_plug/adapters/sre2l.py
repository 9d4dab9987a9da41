"""SRe2L: the recover scripts of its CIFAR-100, Tiny-ImageNet and ImageNet-1K experiments.

Each script walks over the classes in batches, an image a class and pass. The label hook is answered where the plan
differs from that: where several images of a class share a batch, or the dataset has fewer classes than the number
that the script hard-codes. The scripts size their images by the labels, so a batch may be longer than upstream's.
The ImageNet-1K script also reshapes its images by `batch-size` (`recover/data_synthesis.py` 81), for a norm that
counts only where `l2-scale` isn't 0; the number of values of a batch must be divisible by it.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from dire_plug.adapters.sre2l_flags import MODELS, OWNED, ScriptFlags
from dire_plug.errors import DirePlugError
from dire_plug.home import resource
from dire_plug.hookspecs import hookimpl
from dire_plug.plans import ChunkedPlan, build_plan
from dire_plug.recipe.model import Recipe, RecoverSection
from dire_plug.types import Invocation, Script, Slot, Synthesis, Upstream

if TYPE_CHECKING:
    from torch import Tensor

SMALL = "SRe2L/*small_dataset"
"""The folder's literal name; the asterisk is no pattern."""
IMAGENET = "SRe2L/recover"
ARCHITECTURES = {"cifar": ("resnet-18", "resnet-small"), "tiny": ("resnet-18",), "imagenet": ("resnet-18",)}
"""Teachers that a script can be given. Only the CIFAR script asks torchvision for its network by a call that a shim
can answer, and it then replaces `conv1` and `maxpool`."""


class SRe2L:
    """The adapter of SRe2L, and the plugin that answers its plan and start hooks."""

    name = "sre2l"
    title = "SRe2L"
    upstream = Upstream(
        repository="https://github.com/VILA-Lab/SRe2L",
        commit="8d00cba364bfa34aa1f5a8107dc041ae1be8ebe6",
        paths=(
            f"{SMALL}/recover_cifar.py",
            f"{SMALL}/recover_tiny.py",
            f"{SMALL}/utils.py",
            f"{IMAGENET}/data_synthesis.py",
            f"{IMAGENET}/utils.py",
        ),
        licence="none",
    )
    scripts: Mapping[str, Script] = MappingProxyType(
        {
            "cifar": Script(
                path=f"{SMALL}/recover_cifar.py",
                classes=100,
                size=32,
                mean=(0.4914, 0.4822, 0.4465),
                std=(0.2023, 0.1994, 0.2010),
                stem="small",
                checkpoint="state_dict.module",
            ),
            "tiny": Script(
                path=f"{SMALL}/recover_tiny.py",
                classes=200,
                size=64,
                mean=(0.4802, 0.4481, 0.3975),
                std=(0.2302, 0.2265, 0.2262),
                stem="small",
                checkpoint="model",
            ),
            "imagenet": Script(
                path=f"{IMAGENET}/data_synthesis.py",
                classes=1000,
                size=224,
                mean=(0.485, 0.456, 0.406),
                std=(0.229, 0.224, 0.225),
                stem="imagenet",
                checkpoint="bare",
            ),
        }
    )
    owned_flags: Mapping[str, str] = OWNED
    embeddings_are_nonnegative = True

    def has_native(self, script: str) -> bool:
        """Tell whether the native engine has this script's loop."""
        return script == "cifar"

    def flags_model(self, script: str) -> type[BaseModel]:
        """Return the model of the flags that a recipe may set for a script."""
        return MODELS[script]

    def patches(self) -> Path:
        """Return the folder of this method's patches."""
        return resource("patches") / self.name

    def recipes(self) -> Path:
        """Return the folder of this method's recipes."""
        return resource("recipes") / self.name

    def problems(self, recipe: Recipe, *, classes: int | None = None) -> list[tuple[str, str]]:
        """Return (dotted key, message) of what doesn't fit together in a recipe; `classes` of the dataset, if known."""
        found = []
        script, teacher = recipe.recover.script, recipe.squeeze.teacher.architecture
        if teacher not in ARCHITECTURES[script]:
            known = " or ".join(ARCHITECTURES[script])
            found.append(("squeeze.teacher.architecture", f"the script '{script}' takes {known} (is '{teacher}')"))
        if recipe.prepare:
            found.append(("prepare", f"{self.title} needs nothing prepared; remove {', '.join(recipe.prepare)}"))
        try:
            self.plan(recipe.recover, classes=classes or self.scripts[script].classes, ipc=recipe.ipc)
        except DirePlugError as error:
            found.append(("recover.flags.batch-size", str(error).removeprefix("plan: ")))
        return found

    def plan(self, recover: Any, *, classes: int, ipc: int) -> ChunkedPlan:
        """Return the plan that the recipe's `recover` section asks for.

        Raises:
            DirePlugError: the dataset has more classes than the script, or fewer than the script has batches.
        """
        script, flags = self.scripts[recover.script], self._flags(recover)
        if classes > script.classes:
            raise DirePlugError(f"plan: the script '{recover.script}' knows {script.classes} classes, not {classes}")
        own = classes == script.classes
        plan = build_plan(
            classes=classes,
            ipc=ipc,
            slots_per_pass=-(-script.classes // flags.batch_size),
            per_class=1 if recover.plan == "keep" else recover.plan.per_class,
            chunk_size=flags.batch_size if own else None,
        )
        if recover.script == "imagenet":
            _check_reshape(plan, script, flags.batch_size)
        return plan

    def steps(self, recover: RecoverSection) -> int:
        """Return the number of iterations of one slot."""
        return self._flags(recover).iteration

    def invocation(self, recover: Any, *, teacher: Path, images: Path, architecture: str = "resnet-18") -> Invocation:
        """Return the command line of upstream's script, without the arguments of a pass, and the shims that it needs.

        Args:
            teacher: the checkpoint, in the script's own layout.
            images: the folder that receives `newCCC/classCCC_idIII.jpg`.
            architecture: the teacher's.
        """
        flags = self._flags(recover).model_dump(by_alias=True)
        arguments = [text for flag, value in flags.items() for text in (f"--{flag}", str(value))]
        arguments += ["--syn-data-path", str(images.parent), "--exp-name", images.name]
        arguments.append("--store-last-images" if recover.script == "tiny" else "--store-best-images")
        shims: dict[str, dict[str, Any]] = {"device": {}, "torch_load": {}, "network": {}}
        if recover.script == "imagenet":
            shims["hub_weights"] = {"teacher": str(teacher)}
        else:
            arguments += ["--arch-path", str(teacher)]
        if architecture != "resnet-18":
            shims["get_model"] = {"replace": "resnet18", "architecture": architecture}
        return Invocation(self.scripts[recover.script].path, tuple(arguments), shims)

    def pass_arguments(self, pass_index: int) -> tuple[str, ...]:
        """Return the arguments that make the script run one pass alone."""
        return ("--ipc-start", str(pass_index), "--ipc-end", str(pass_index + 1))

    def image_path(self, label: int, image: int) -> str:
        """Return where, below the image folder, the script saves one image."""
        return f"new{label:03d}/class{label:03d}_id{image:03d}.jpg"

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
        noise = _noise(synthesis.seed, synthesis.classes, synthesis.ipc, start.shape)
        return noise[rows].to(images.device, images.dtype)

    def _flags(self, recover: Any) -> ScriptFlags:
        return MODELS[recover.script].model_validate(recover.flags)


@lru_cache(maxsize=1)
def _noise(seed: int, classes: int, ipc: int, shape: tuple[int, ...]) -> Tensor:
    """Return Gaussian noise for every image, [C, ipc, 3, H, W], from a generator of its own."""
    import torch

    return torch.randn((classes, ipc, *shape), generator=torch.Generator().manual_seed(seed))


def _check_reshape(plan: ChunkedPlan, script: Script, batch_size: int) -> None:
    for pass_index in {0, plan.passes - 1}:
        for batch_index in range(plan.slots_per_pass):
            images = len(plan.slot(Slot(pass_index, batch_index)).labels)
            if images * 3 * script.size**2 % batch_size:
                raise DirePlugError(
                    f"plan: the ImageNet-1K script reshapes its images by --batch-size {batch_size}, which a batch of "
                    f"{images} images can't be; a power of two up to 512 always works"
                )
