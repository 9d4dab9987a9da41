"""Make the pretended GPU known to torch before any test runs, in a process of these tests alone.

Torch's autograd counts the devices at its first backward pass; and once torch knows an accelerator, a device that is
named by a number means it, which other tests don't expect.
"""

from pathlib import Path

import pytest
import torch
from support.pretended_gpu import can_register, register

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mine = [item for item in items if HERE in item.path.parents]
    if len(mine) < len(items):
        reason = "the pretended GPU needs a process of its own: pytest tests/gpu, as `make test` does"
    elif not can_register():
        reason = "the pretended GPU needs torch 2.10 or newer"
    else:
        register()
        # before the first backward pass too: the device's own thread keeps the number that it starts with
        torch.set_num_threads(1)
        return
    for item in mine:
        item.add_marker(pytest.mark.skip(reason=reason))
