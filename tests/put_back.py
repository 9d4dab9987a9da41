"""Puts back what shims replace: in a child it lasts until the process ends, in a test it must not."""

import contextlib
import socket
from collections.abc import Iterator

import pytest
import torch
import torchvision
from torch import nn
from torch.overrides import _get_current_function_mode_stack, _pop_mode
from torchvision.models import WeightsEnum

REPLACED = [
    (nn.Module, "cuda"),
    (torch, "load"),
    (torchvision.models, "get_model"),
    (torchvision.models, "resnet18"),
    (WeightsEnum, "get_state_dict"),
    (socket.socket, "connect"),
    (socket.socket, "connect_ex"),
    (socket, "getaddrinfo"),
    (socket, "gethostbyname"),
]


def active_modes() -> int:
    """Return the number of torch's function modes that are on."""
    return len(_get_current_function_mode_stack())  # type: ignore[no-untyped-call]


@contextlib.contextmanager
def shims_put_back() -> Iterator[None]:
    """Put everything back, when the block ends, that a shim replaced in it."""
    modes = active_modes()
    with pytest.MonkeyPatch.context() as patch:
        for owner, name in REPLACED:
            patch.setattr(owner, name, getattr(owner, name))
        yield
    while active_modes() > modes:
        _pop_mode()  # type: ignore[no-untyped-call]
