"""Puts back what shims replace: in a child it lasts until the process ends, in a test it must not."""

import contextlib
import os
import random
import runpy
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed
import torch.multiprocessing
import torchvision
from torch import nn
from torch.overrides import _get_current_function_mode_stack, _pop_mode
from torch.utils.data import DataLoader
from torchvision.models import WeightsEnum

REPLACED = [
    (nn.Module, "cuda"),
    (torch, "load"),
    (torch.Tensor, "cpu"),
    (torch.Tensor, "__setitem__"),
    *((torch.cuda, name) for name in torch.cuda.__all__),
    (torch.multiprocessing, "spawn"),
    (torch.multiprocessing, "set_start_method"),
    (torch.distributed, "init_process_group"),
    (DataLoader, "__init__"),
    (torchvision.datasets, "CIFAR10"),
    (torchvision.datasets, "CIFAR100"),
    (torchvision.datasets, "ImageFolder"),
    (torchvision.transforms.RandomCrop, "__init__"),
    (torchvision.transforms.RandomResizedCrop, "__init__"),
    (torchvision.models, "get_model"),
    (torchvision.models, "resnet18"),
    (torchvision.models._api, "register_model"),
    (WeightsEnum, "get_state_dict"),
    (socket.socket, "connect"),
    (socket.socket, "connect_ex"),
    (socket, "getaddrinfo"),
    (socket, "gethostbyname"),
    (time, "time"),
    (random, "randint"),
    (os, "listdir"),
    (sys, "meta_path"),
]
STAND_INS = ("wandb", "prefetch_generator")


def active_modes() -> int:
    """Return the number of torch's function modes that are on."""
    return len(_get_current_function_mode_stack())  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def shims_put_back() -> Iterator[None]:
    """Put everything back, when the block ends, that a shim replaced in it."""
    modes = active_modes()
    with pytest.MonkeyPatch.context() as patch, mock.patch.dict(os.environ), _modules_put_back():
        for owner, name in REPLACED:
            patch.setattr(owner, name, getattr(owner, name))
        yield
    while active_modes() > modes:
        _pop_mode()  # type: ignore[no-untyped-call]


def run_as_upstream(path: Path, source: str) -> dict[str, Any]:
    """Write a script, run it as the child runs upstream's, and return what it defined."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source)
    return runpy.run_path(str(path), run_name="__main__")


@contextlib.contextmanager
def _modules_put_back() -> Iterator[None]:
    kept = _stand_ins()
    yield
    for name in _stand_ins():
        del sys.modules[name]
    sys.modules.update(kept)


def _stand_ins() -> dict[str, Any]:
    return {name: module for name, module in sys.modules.items() if name.partition(".")[0] in STAND_INS}
