"""INFER (repository UFC): a perturbation that all classes share is added to a real image of each, network by network.

One file synthesizes for CIFAR-10 and CIFAR-100, another for ImageNet-1K, which needs `repair.patch`. A call makes all
passes: it can't start in the middle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from dire_plug.api.method import (
    RESERVED_DATASET,
    RESERVED_IMAGES,
    RESERVED_IPC,
    RESERVED_PATHS,
    DirePlugError,
    Invocation,
    LoopInputs,
    PlannedAdapter,
    Script,
    ScriptInputs,
    Slot,
    Synthesis,
    Upstream,
    VerifyCase,
    cifar_scripts,
    hookimpl,
    image_path,
    imagenet_script,
    to_arguments,
    with_own_dataset,
    with_slots,
    write_network,
)
from dire_plug.files import make_folder
from dire_plug.methods.infer_plan import PerturbationPlan, check_rows, count_originals, cut_classes, ipc_argument
from dire_plug.methods.sre2l_family import FamilyFlags, ImageNetFlags, write_images

if TYPE_CHECKING:
    from torch import Tensor

# What INFER's scripts read: checkpoints at paths of their own, and real images as tensors or as files.


PRETRAINED = "pretrained"
START = "start"
"""Folders among the inputs."""
_COMPRESSION = 0
"""No compression of PNG: the files are deleted after one run."""
NETWORKS: Mapping[str, str] = MappingProxyType(
    {
        "resnet-18": "resnet18",
        "resnet-small": "resnet18",
        "mobilenet-v2-ufc": "mobilenetV2",
        "efficientnet-b0-ufc": "efficientnet",
        "shufflenet-g2-ufc": "shufflenet",
        "mobilenet-v2": "mobilenet_v2",
        "efficientnet-b0": "efficientnet_b0",
    }
)
"""Architecture → how upstream names it: in the folder of its checkpoint, or as torchvision does."""


def checkpoint_path(architecture: str, dataset: str | None) -> str:
    """Return where, below the inputs, a checkpoint lies; the CIFAR script reads a folder for each of its datasets."""
    name = NETWORKS[architecture]
    return f"{PRETRAINED}/{name}.pt" if dataset is None else f"{PRETRAINED}/{dataset}/{name}_E200/ckpt.pth"


def write_tensors(folder: Path, start: Tensor, *, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """Write `tensor_{i}.pt`: the i-th image of every class, normalised, [C, 3, H, W].

    Args:
        folder: is made.
        start: [C, n, 3, H, W], uint8.
        mean, std: of the script.
    """
    import torch

    from dire_plug.data.augmentation.batch import normalise

    make_folder(folder)
    for image in range(start.shape[1]):
        torch.save(normalise(start[:, image], mean, std), folder / f"tensor_{image}.pt")


def write_files(folder: Path, start: Tensor) -> None:
    """Write a folder for each class with its images as PNG, sorted as the classes are.

    Args:
        folder: is made.
        start: [C, n, 3, H, W], uint8.
    """
    names = [f"{image:05d}.png" for image in range(start.shape[1])]
    for label, images in enumerate(start):
        write_images(folder / f"{label:05d}", images, names, compress_level=_COMPRESSION)


# The flags of INFER's scripts: in upstream's spelling, with upstream's defaults.


_CIFAR, _IMAGENET = "ufc_generation/ufc_cifar.py", "ufc_generation/ufc_imgnet.py"
_DATASETS: Mapping[str, str] = MappingProxyType({"cifar-10": "cifar10", "cifar-100": "cifar100"})
"""Script → the folder in which it reads its checkpoints, and upstream's name of the dataset."""
_SMALL = (("resnet-18", "resnet-small"), ("mobilenet-v2-ufc",), ("efficientnet-b0-ufc",), ("shufflenet-g2-ufc",))
_LARGE = (("resnet-18",), ("mobilenet-v2",), ("efficientnet-b0",))

_PINS = {
    _CIFAR: "21702b1d7e88328d5693075fe2e797ac4f3366bd",
    _IMAGENET: "bafc225ced3bd6754389769323498edb6e9c431b",
    "ufc_generation/utils.py": "ed94e32b4b924d6f1ca23d568afe32afd40ed179",
    "models/mobilenetv2.py": "7fb3238cf6d23fb4f4b3e752855635cbf67dd6ad",
    "models/efficientnet.py": "cc0d27d9ab8305c628a522fc457bc49e9d21e705",
    "models/shufflenet.py": "02350ab0b75b6777d634a3f6f7a0dc535a95196b",
}
"""Path to fetch → git's hash of it at the pinned commit."""


class INFER(PlannedAdapter):
    """The adapter of INFER, and the plugin that answers its plan and start hooks."""

    name = "infer"
    title = "INFER"
    upstream = Upstream(
        repository="https://github.com/zhangxin-xd/UFC",
        commit="83d19f886de8fe821632bea372191d9b4e319d5b",
        paths=tuple(_PINS),
        licence="none",
        pins=_PINS,
    )
    scripts: Mapping[str, Script] = with_slots(
        with_own_dataset(
            {
                **cifar_scripts(_CIFAR),
                "imagenet": imagenet_script(_IMAGENET),
            }
        ),
        "independent",
    )
    reserved_flags: Mapping[str, str] = MappingProxyType(
        {
            "exp-name": RESERVED_PATHS,
            "wandb-name": RESERVED_PATHS,
            "syn-data-path": RESERVED_PATHS,
            "init_path": RESERVED_PATHS,
            "store-best-images": RESERVED_IMAGES,
            "ipc": RESERVED_IPC,
            "dataset": RESERVED_DATASET,
            "M": "the networks are fixed: four on CIFAR, three on ImageNet-1K",
        }
    )
    flags = MappingProxyType({"cifar-10": FamilyFlags, "cifar-100": FamilyFlags, "imagenet": ImageNetFlags})
    architectures: ClassVar[Mapping[str, Sequence[Sequence[str]]]] = MappingProxyType(
        {"cifar-10": _SMALL, "cifar-100": _SMALL, "imagenet": _LARGE}
    )
    """Script → what each of its networks may be, in upstream's order, on which it depends who perturbs when."""
    embeddings_are_nonnegative = False
    """EfficientNet's end in SiLU."""

    def problems(self, recipe: Any, *, classes: int | None = None) -> list[tuple[str, str]]:
        """Return (dotted key, message) of what doesn't fit together in a recipe; `classes` of the dataset, if known."""
        recover, script = recipe.recover, self.scripts[recipe.recover.script]
        found = self._network_problems(recipe)
        if recipe.prepare:
            found.append(("prepare", f"INFER needs nothing prepared; remove {', '.join(recipe.prepare)}"))
        if recover.embedder is not None:
            found.append(("recover.embedder", "the networks are in the loop already; remove this"))
        if not recover.is_given_a_start:
            message = f"must be 'real' or 'rded': INFER perturbs real images (is '{recover.start}')"
            found.append(("recover.start", message))
        if recipe.dataset.size not in (None, script.size):
            message = f"the perturbation of '{recover.script}' has {script.size} pixels, so images need as many"
            found.append(("dataset.size", f"{message} (is {recipe.dataset.size})"))
        try:
            self.plan(recover, classes=script.classes if classes is None else classes, ipc=recipe.ipc)
        except DirePlugError as error:
            place = "ipc" if "IPC" in str(error) else "recover.flags.batch-size"
            found.append((place, str(error).removeprefix("plan: ")))
        return found

    def plan(self, recover: Any, *, classes: int, ipc: int) -> PerturbationPlan:
        """Return the plan that the recipe's `recover` section asks for.

        Raises:
            DirePlugError: the dataset has another number of classes than the script, IPC is too low for one real
                image, or a batch of upstream's own plan doesn't match its start tensor.
        """
        script, networks = self.scripts[recover.script], len(self.architectures[recover.script])
        if classes != script.classes:
            raise DirePlugError(f"plan: the script '{recover.script}' takes {script.classes} classes, not {classes}")
        originals = count_originals(ipc, networks=networks, classes=classes)
        if originals < 1:
            raise DirePlugError(
                f"plan: IPC {ipc} leaves no real image: {networks} networks' perturbations count as "
                f"{networks / classes:g} images a class beside each; take IPC 2 or more"
            )
        batch_size = self.read_flags(recover).batch_size
        chunks = cut_classes(classes, batch_size)
        if recover.plan == "keep":
            if script.path == _CIFAR:
                check_rows(chunks, classes, batch_size)
            return PerturbationPlan(chunks, originals, networks)
        return PerturbationPlan(chunks, originals, networks, recover.plan.per_class)

    @hookimpl
    def initial_images(self, synthesis: Synthesis, slot: Slot, images: Tensor, labels: Tensor) -> Tensor | None:
        """Return the real images of a regrouped slot, [N, 3, H, W]; None where the script has read just these."""
        import torch

        from dire_plug.data.augmentation.batch import normalise

        plan, start = synthesis.plan, synthesis.start_images
        if not isinstance(plan, PerturbationPlan) or start.images is None:
            raise DirePlugError("INFER perturbs real images, but the synthesis was given none")
        if plan.per_class == 1 and len(images) == len(labels):
            return None
        planned = plan.slot(slot)
        rows = torch.tensor(planned.labels), torch.tensor([plan.original(image) for image in planned.images])
        return normalise(start.images[rows].to(images.device), start.mean, start.std).to(images.dtype)

    def write_inputs(self, inputs: LoopInputs, script_inputs: ScriptInputs) -> None:
        """Write the networks' checkpoints with upstream's keys, and the real images.

        Raises:
            DirePlugError: there are no start images, or they aren't of the script's size.
        """
        from dire_plug.models.upstream_keys import upstream_keys

        recover = inputs.recipe.recover
        script, dataset = self.scripts[recover.script], _DATASETS.get(recover.script)
        plan = self.plan(recover, classes=inputs.classes, ipc=inputs.recipe.ipc)
        if script_inputs.start is None:
            raise DirePlugError("recover.start: INFER perturbs real images; set it to 'real'")
        if inputs.size != script.size:
            raise DirePlugError(
                f"dataset.size: the perturbation of '{recover.script}' has {script.size} pixels, the images have "
                f"{inputs.size}; set dataset.size={script.size}"
            )
        for network in script_inputs.teachers.values():
            path, keys = checkpoint_path(network.architecture, dataset), upstream_keys(network.architecture, self.name)
            write_network(network, inputs.folder / path, script.checkpoint, keys=keys)
        start = script_inputs.start[:, : plan.originals]
        if dataset is None:
            write_files(inputs.folder / START, start)
        else:
            write_tensors(inputs.folder / START, start, mean=script.mean, std=script.std)

    def invocation(self, inputs: LoopInputs) -> Invocation:
        """Return the command line of upstream's script and the shims that it needs.

        Images land in `inputs.images` as `newCCC/classCCC_idIII.jpg`.
        """
        recover = inputs.recipe.recover
        script, dataset = self.scripts[recover.script], _DATASETS.get(recover.script)
        plan = self.plan(recover, classes=inputs.classes, ipc=inputs.recipe.ipc)
        root, parent, name = inputs.images.parent.parent, inputs.images.parent.name, inputs.images.name
        arguments = to_arguments(self.read_flags(recover))
        arguments += ["--dataset", dataset or "imagenet", "--ipc", str(ipc_argument(plan, inputs.recipe.ipc))]
        arguments += ["--init_path", str(inputs.folder / START), "--store-best-images"]
        arguments += ["--syn-data-path", str(root), "--wandb-name", parent, "--exp-name", name]
        shims: dict[str, dict[str, Any]] = {"device": {}, "torch_load": {}, "network": {}, "wandb": {}}
        known = [one[0] for one in self.architectures[recover.script]]
        if dataset is None:
            files = {NETWORKS[one]: str(inputs.folder / checkpoint_path(one, None)) for one in known}
            shims["hub_weights"] = {"files": files}
        else:
            links = {"models": "{tree}/models", PRETRAINED: str(inputs.folder / PRETRAINED)}
            shims["files"] = {"links": links}
        # quick recipes train a small ResNet, which the script must get where it builds ResNet-18
        if (architecture := inputs.recipe.squeeze.teacher.architecture) != known[0]:
            shims["get_model"] = {"replace": "resnet18", "architecture": architecture}
        return Invocation(script.path, tuple(arguments), shims)

    def image_path(self, label: int, image: int) -> str:
        """Return where, below the image folder, the script saves one image."""
        return image_path(label, image)

    def verify_case(self, script: str) -> VerifyCase:
        """Return two iterations with each network on CIFAR-10; elsewhere three steps, with those that come first.

        CIFAR-100 has the script of CIFAR-10. The answered run has two real images of a class in a batch.
        """
        names = ("teacher", "mobilenet", "efficientnet", "shufflenet")
        known = [one[0] for one in self.architectures[script]]
        return VerifyCase(
            recover={
                "script": script,
                "flags": {"batch-size": self.scripts[script].classes if script in _DATASETS else 4, "iteration": 2},
                "start": "real",
            },
            teachers=dict(zip(names, known, strict=False)),
            ipc=2,
            steps=None if script == "cifar-10" else 3,
            answered={"plan": {"per_class": 2}, "flags": {"batch-size": 10 if script in _DATASETS else 4}},
            answered_ipc=3,
            answered_steps=3,
            images_are_leaf=False,
        )

    def _network_problems(self, recipe: Any) -> list[tuple[str, str]]:
        """Return what is wrong with the networks: the script builds fixed ones, in a fixed order."""
        known = self.architectures[recipe.recover.script]
        squeeze = recipe.squeeze
        given = [squeeze.teacher.architecture, *(one.architecture for one in squeeze.others.values())]
        if len(given) == len(known) and all(one in among for one, among in zip(given, known, strict=True)):
            return []
        wanted, found = (", ".join(names) for names in ([" or ".join(one) for one in known], given))
        message = f"the script '{recipe.recover.script}' takes, in this order, {wanted} (is {found})"
        return [("squeeze.teacher.architecture" if given[0] not in known[0] else "squeeze.others", message)]
