"""The base of the adapters of CV-DD, SRe2L++ and FADRM: one recover script for all datasets, and its networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from pydantic import Field

from dire_plug.api.method import (
    CIFAR_10,
    IMAGENET_MEAN,
    IMAGENET_STD,
    RESERVED_DATASET,
    RESERVED_IMAGES,
    RESERVED_PASSES,
    RESERVED_PATHS,
    RESERVED_START,
    RESERVED_TEACHER,
    RESERVED_VERIFIER,
    Flags,
    Invocation,
    LoopInputs,
    Script,
    ScriptInputs,
    Upstream,
    cifar_script,
    imagenet_script,
    to_arguments,
    with_slots,
    write_network,
)
from dire_plug.methods.sre2l_family import FamilyAdapter, saving_arguments

RECOVER, POOL = "recover/recover.py", "pool"
"""The script, and the folder of the networks' weights among the inputs."""
_CIFAR_10 = (CIFAR_10[0], (0.2470, 0.2435, 0.2616))
_DATASETS: Mapping[str, str] = MappingProxyType(
    {
        "cifar-10": "cifar10",
        "cifar-100": "cifar100",
        "tiny": "tiny_imagenet",
        "imagenette": "imagenet-nette",
        "imagenet": "imagenet1k",
    }
)
"""Script → upstream's name of its dataset."""
_KEYS = ("teacher", "resnet50", "shufflenet", "mobilenet", "densenet")
_UPSTREAM = ("ResNet18", "ResNet50", "ShuffleNetV2", "MobileNetV2", "Densenet121")
NAMES = dict(zip(_KEYS, _UPSTREAM, strict=True))
"""Key of a network in a recipe → what upstream calls it, as the file of its weights."""
_SMALL = ("resnet-18", "resnet-50", "shufflenet-v2-x0.5-cvdd", "mobilenet-v2-ufc", "densenet-121-cvdd")
_LARGE = ("resnet-18", "resnet-50", "shufflenet-v2-x1.0", "mobilenet-v2", "densenet-121")
SMALL, LARGE = dict(zip(NAMES, _SMALL, strict=True)), dict(zip(NAMES, _LARGE, strict=True))
"""Key → the architecture that the script builds: upstream's own up to 64 pixels, torchvision's above."""
QUICK = ("resnet-small", "resnet-small-grey", "convnet-small", "convnet-small-grey")
"""Small networks with batch normalisation, which a shim can put in the place of upstream's own."""
_PINS = {
    RECOVER: "8c87d41c250e3091f0bb52af321258060762e2c5",
    "recover/utils_recover.py": "f6f1b46f78c572eece199aaeda60dcd3e8470d66",
    "models": "e104d359577aa25aa21146e4e3004cd903d29bfa",
}
"""Path to fetch → git's hash of it at the pinned commit."""


class StepFlags(Flags):
    """The flags of a step; the defaults are upstream's."""

    batch_size: int = Field(default=100, alias="batch-size", ge=1)
    """Classes in a batch; with a regrouped plan each holds several images, in FADRM's fewer classes."""
    lr: float = Field(default=0.1, gt=0)
    r_bn: float = Field(default=0.05, alias="r-bn", ge=0)
    first_bn_multiplier: float = Field(default=10.0, alias="first-bn-multiplier", ge=0)
    apply_data_augmentation: bool = Field(default=False, alias="apply-data-augmentation")
    """Whether each step crops and flips the batch at random."""


class CommitteeFlags(StepFlags):
    """The flags of the loop of CV-DD and SRe2L++."""

    iteration: int = Field(default=1000, ge=1)


class CommitteeAdapter(FamilyAdapter):
    """The part of an adapter that the methods share; upstream, scripts and flags are those of CV-DD and SRe2L++."""

    upstream = Upstream(
        repository="https://github.com/Jiacheng8/CV-DD",
        commit="24097e9c7058954b90eb442daa7cc6ba4b774830",
        paths=tuple(_PINS),
        licence="MIT",
        pins=_PINS,
    )
    scripts: Mapping[str, Script] = with_slots(
        {
            "cifar-10": cifar_script(RECOVER, 10, checkpoint="bare", statistics=_CIFAR_10),
            "cifar-100": cifar_script(RECOVER, 100, checkpoint="bare"),
            "tiny": Script(RECOVER, 200, 64, IMAGENET_MEAN, IMAGENET_STD, stem="small", checkpoint="bare"),
            "imagenette": replace(imagenet_script(RECOVER), classes=10),
            "imagenet": imagenet_script(RECOVER),
        },
        "independent",
    )
    reserved_flags: Mapping[str, str] = MappingProxyType(
        {
            **dict.fromkeys(("exp-name", "syn-data-path", "model-pool-dir"), RESERVED_PATHS),
            **dict.fromkeys(("ipc-start", "ipc-end"), RESERVED_PASSES),
            **dict.fromkeys(("verifier", "verifier-arch", "verifier-weight-path"), RESERVED_VERIFIER),
            **dict.fromkeys(("pretrained-model-type", "sre2l-model"), RESERVED_TEACHER),
            **dict.fromkeys(("initialisation-method", "initialisation-dir", "patch-dir", "patch-diff"), RESERVED_START),
            "store-initialised-images": RESERVED_START,
            "store-best-images": RESERVED_IMAGES,
            "dataset-name": RESERVED_DATASET,
            "jitter": "the script sets it by its dataset: 4 pixels, 32 at 224",
            "start-index": "the plan says which classes a batch holds",
        }
    )
    network_names: Mapping[str, str] = MappingProxyType({name: key for key, name in NAMES.items()})

    def network_problems(self, recipe: Any) -> list[tuple[str, str]]:
        """Return what is wrong with the networks: a key that upstream has no network for, or another one."""
        squeeze, script, found = recipe.squeeze, recipe.recover.script, list[tuple[str, str]]()
        for key, section in {"teacher": squeeze.teacher, **squeeze.others}.items():
            where = "squeeze.teacher" if key == "teacher" else f"squeeze.others.{key}"
            if key not in NAMES:
                found.append((where, f"the script knows no such network; it has {', '.join(_KEYS[1:])}"))
            elif section.architecture not in (known := self.known_architectures(script, key)):
                message = f"the script '{script}' takes {' or '.join(known)} (is '{section.architecture}')"
                found.append((f"{where}.architecture", message))
        return found

    def known_architectures(self, script: str, key: str) -> tuple[str, ...]:
        """Return what one network may be."""
        return (LARGE[key],) if self.scripts[script].stem == "imagenet" else (SMALL[key], *QUICK)

    def write_inputs(self, inputs: LoopInputs, script_inputs: ScriptInputs) -> None:
        """Write the networks with upstream's keys, each into the file that bears its name."""
        from dire_plug.models.upstream_keys import upstream_keys

        small = self.scripts[inputs.recipe.recover.script].stem == "small"
        for key, network in script_inputs.teachers.items():
            keys = upstream_keys(network.architecture, "cv-dd") if small else None
            write_network(network, inputs.folder / POOL / f"{NAMES[key]}.pth", "bare", keys=keys)

    def invocation(self, inputs: LoopInputs) -> Invocation:
        """Return the command line of upstream's script, without the arguments of a pass, and the shims that it needs.

        Images land in `inputs.images` as `newCCC/classCCC_idIII.jpg`. ImageNet-1K's weights are read from files too.
        """
        recover, squeeze = inputs.recipe.recover, inputs.recipe.squeeze
        script = self.scripts[recover.script]
        arguments = to_arguments(self.read_flags(recover)) + saving_arguments(inputs.images)
        arguments += ["--dataset-name", _DATASETS[recover.script]]
        arguments += ["--pretrained-model-type", "offline", "--model-pool-dir", str(inputs.folder / POOL)]
        shims: dict[str, dict[str, Any]] = {"device": {}, "torch_load": {}, "network": {}}
        shims["empty_modules"] = {"names": ["cv2", "pandas"]}
        if inputs.size != script.size:
            shims["crop_size"] = {"from": script.size, "to": inputs.size}
        given = {"teacher": squeeze.teacher, **squeeze.others}
        # the function that builds it is spelt otherwise than the network
        built = {NAMES[key].replace("Densenet", "DenseNet"): one.architecture for key, one in given.items()}
        if small := {name: architecture for name, architecture in built.items() if architecture in QUICK}:
            shims["own_networks"] = {"module": "models", "replace": small, "outputs": "ncls"}
        return Invocation(script.path, tuple(arguments), shims)
