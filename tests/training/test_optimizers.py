"""The optimizer of every published recipe's students beside upstream's: its kind, groups, rates, decay, momentum."""

from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import torch
from support.tiny_networks import CLASSES, make_network
from torch import Generator, Tensor
from torch.optim import SGD, AdamW, Optimizer

from dire_plug import plugins
from dire_plug.data.augmentation.draws import Augmentation
from dire_plug.recipe import read_yaml, recipe_names, resolve
from dire_plug.training.loop import train
from dire_plug.training.protocols import SET_UP
from dire_plug.training.students import StudentData

ADAMW = {"lr": 1e-3, "weight_decay": 0.01, "betas": (0.9, 0.999)}
TINY = {"lr": 0.2, "weight_decay": 1e-4, "momentum": 0.9}
MATCHING = {"lr": 0.01, "weight_decay": 5e-4, "momentum": 0.9}
GVBSM = {"lr": 0.1, "weight_decay": 5e-4, "momentum": 0.9}
SPARED = True  # norms and biases are a group of their own that doesn't decay
TABLE: dict[str, tuple[type[Optimizer], bool, dict[str, Any], dict[int, float], str]] = {
    "sre2l/cifar-*": (AdamW, False, ADAMW, {}, "SRe2L/*small_dataset/relabel_cifar.py:104; DiRe's release, :193"),
    "cda/cifar-100": (AdamW, False, ADAMW, {}, "as sre2l's"),
    "sre2l/tiny-imagenet": (SGD, False, TINY, {}, "zeyuanyin/tiny-imagenet, train_kd.py and script/train_kd.sh"),
    "cda/tiny-imagenet": (SGD, False, TINY, {}, "the same, where CDA/README.md sends"),
    "sre2l/imagenet-1k": (AdamW, SPARED, ADAMW, {}, "SRe2L/validate/train_FKD.py:157, utils.py:59, train_FKD.sh"),
    "cda/imagenet-1k": (AdamW, SPARED, ADAMW, {}, "the same, where CDA/README.md sends"),
    "sre2l-pp/imagenette": (AdamW, SPARED, {**ADAMW, "lr": 5e-4}, {}, "validate/train_fkd.py:146, 285 of CV-DD"),
    "sre2l-pp/[!i]*": (AdamW, SPARED, ADAMW, {}, "validate/train_fkd.py:85-134, 285, utils_validate.py:67 of CV-DD"),
    "sre2l-pp/imagenet-1k": (AdamW, SPARED, ADAMW, {}, "validate/train_fkd.py:180, 285 of CV-DD"),
    "cv-dd/imagenette": (AdamW, SPARED, {**ADAMW, "lr": 5e-4}, {}, "validate/train_fkd.py:146, 285"),
    "cv-dd/[!i]*": (AdamW, SPARED, ADAMW, {}, "validate/train_fkd.py:85-134, 285, utils_validate.py:67"),
    "cv-dd/imagenet-1k": (AdamW, SPARED, ADAMW, {}, "validate/train_fkd.py:180, 285"),
    "fadrm/cifar-100*": (AdamW, SPARED, ADAMW, {1: 5e-4}, "validate/train_fkd.py:89-96, 397, utils_validate.py:67"),
    "fadrm/tiny-imagenet": (AdamW, SPARED, ADAMW, {}, "validate/train_fkd.py:135-142, 397"),
    "fadrm/imagenette": (AdamW, SPARED, {**ADAMW, "lr": 5e-4}, {}, "validate/train_fkd.py:230-237, 397"),
    "fadrm/imagenet-1k": (AdamW, SPARED, ADAMW, {}, "validate/train_fkd.py:275-282, 397"),
    "delt/*": (AdamW, SPARED, ADAMW, {}, "evaluation/validation/main.py:89, utils.py:68, argument.py:268"),
    "dwa/cifar-*": (AdamW, False, ADAMW, {}, "validation/validation_cifar.py:170"),
    "dwa/tiny-imagenet": (SGD, False, TINY, {}, "validation/validation_tiny.py:247-262, scripts/run_tiny.sh"),
    "dwa/imagenet-1k": (AdamW, SPARED, ADAMW, {}, "validation/validation_imgnet.py:147, utils.py:61"),
    "infer/*": (AdamW, False, ADAMW, {}, "ufc_validation/val_static.py:234, val_dyn.py:212; none for ImageNet-1K"),
    "g-vbsm/cifar-10": (
        AdamW,
        SPARED,
        {**ADAMW, "weight_decay": 0},
        {},
        "Branch_CIFAR_10/train/train_FKD.py:104, 199, utils.py:58",
    ),
    "g-vbsm/cifar-100": (SGD, SPARED, GVBSM, {}, "Branch_CIFAR_100/train/train_FKD.py:96-98, 189, train.sh"),
    "g-vbsm/tiny-imagenet": (SGD, SPARED, GVBSM, {}, "Branch_Tiny_ImageNet/train/train_FKD.py:97, 183, train.sh"),
    "g-vbsm/imagenet-1k": (AdamW, SPARED, ADAMW, {}, "Branch_full_ImageNet_1k/train/train_FKD_parallel.py:219"),
    "edc/cifar-10": (AdamW, SPARED, ADAMW, {}, "Branch_CIFAR_10/train/direct_train.py:313, train.sh"),
    "edc/cifar-100": (
        SGD,
        SPARED,
        {**GVBSM, "momentum": 0.875},
        {},
        "Branch_CIFAR_100/train/direct_train.py:159, 282, train.sh",
    ),
    "lpld/tiny-imagenet": (
        SGD,
        SPARED,
        TINY,
        {},
        "relabel_and_validate/train_FKD_label_pruning_batch.py:374, utils.py:72, cfg/reproduce/LPLD_tiny_[4k].yaml",
    ),
    "lpld/imagenet-1k": (AdamW, SPARED, ADAMW, {}, "train_FKD_label_pruning_batch.py:379, LPLD_in1k_[4k].yaml"),
    "mtt/*": (SGD, False, MATCHING, {}, "utils.py:359"),
    "dm/*": (SGD, False, MATCHING, {}, "methods/dc/utils.py:344 of dc_benchmark"),
}
"""Recipe → optimizer, whether norms and biases are spared, its numbers, other rates by IPC, and upstream's lines."""

TREES = {
    f"{method}/{name}": tree
    for method in plugins.known("methods")
    for name in recipe_names(plugins.load_adapter(method).recipes())
    if not (tree := read_yaml(plugins.load_adapter(method).recipes() / f"{name}.yaml")).get("demonstration")
}
CELLS = [(recipe, int(ipc)) for recipe, tree in TREES.items() for ipc in tree.get("by_ipc", [tree["ipc"]])]


def optimizer_of(section: Any, folder: Path) -> tuple[Optimizer, list[list[str]]]:
    """Return the optimizer of a student's first epoch after any warm-up, and the names of each group's parameters."""
    student, found = make_network(0), list[Optimizer]()
    images, labels = torch.zeros(6, 3, 4, 4), torch.arange(6) % CLASSES
    plain = Augmentation(lambda *_: None, lambda pixels, _: pixels)
    data = StudentData(images, labels, plain, images, labels)
    settings = SET_UP[section.protocol](student, [make_network(1)], data=data, section=section, seed=0).training

    def keep(_: int, optimizer: Optimizer, __: Generator) -> tuple[Tensor, None]:
        found.append(optimizer)
        return torch.zeros(()), None

    train(student, keep, replace(settings, epochs=1, warmup_epochs=0), folder=folder)
    names = {id(parameter): name for name, parameter in student.named_parameters()}
    return found[0], [sorted(names[id(one)] for one in group["params"]) for group in found[0].param_groups]


@pytest.mark.parametrize(("recipe", "ipc"), CELLS)
def test_a_students_optimizer_is_upstreams(recipe: str, ipc: int, tmp_path: Path) -> None:
    ((kind, spared, numbers, rates, _),) = (row for pattern, row in TABLE.items() if fnmatch(recipe, pattern))
    adapter = plugins.load_adapter(recipe.partition("/")[0])
    found = resolve(TREES[recipe], arm="baseline", ipc=ipc, preset=None, settings=(), adapter=adapter)
    section: Any = found.recipe.evaluate
    if getattr(section, "lr", None) == "learned":
        section = section.model_copy(update={"lr": section.lr_without})
    optimizer, groups = optimizer_of(section, tmp_path)
    matrices, others = ["0.weight", "5.weight"], ["0.bias", "1.bias", "1.weight", "5.bias"]
    assert groups == ([matrices, others] if spared else [sorted(matrices + others)])
    numbers = {**numbers, "lr": rates.get(ipc, numbers["lr"])}
    expected = [numbers, {**numbers, "weight_decay": 0}][: len(groups)]
    assert [{key: group[key] for key in numbers} for group in optimizer.param_groups] == expected
    assert type(optimizer) is kind
    assert not any(group.get("nesterov") or group.get("amsgrad") for group in optimizer.param_groups)


def test_every_row_of_the_table_is_of_a_recipe() -> None:
    assert [pattern for pattern in TABLE if not any(fnmatch(recipe, pattern) for recipe in TREES)] == []
