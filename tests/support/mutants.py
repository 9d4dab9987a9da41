"""Mutants of the bridge and of patches; on every method: `tests/upstream/verify/test_every_mutant.py`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dire_plug import bridge
from dire_plug.api.patch_file import Patch
from dire_plug.synthesis.embeddings import Embeddings

Change = Callable[[pytest.MonkeyPatch], None]


def double_rates(patch: pytest.MonkeyPatch) -> None:
    """Make a bridge with an active term double the learning rate of every optimiser."""
    right, add_group, made = bridge.loss, torch.optim.Optimizer.add_param_group, list[Any]()

    def noting(optimizer: Any, group: Any) -> None:
        add_group(optimizer, group)
        made.append(optimizer)

    @functools.wraps(right)
    def wrong(loss: Any, **arguments: Any) -> Any:
        total = right(loss, **arguments)
        while total is not loss and made:
            for group in made.pop().param_groups:
                group["lr"] *= 2
        return total

    patch.setattr(torch.optim.Optimizer, "add_param_group", noting)
    patch.setattr(bridge, "loss", wrong)


def move_more(patch: pytest.MonkeyPatch) -> None:
    """Make each optimiser move what it holds once more after its steps, if a term is active."""
    right, add_group, active = bridge.loss, torch.optim.Optimizer.add_param_group, list[bool]()

    @torch.no_grad()
    def again(optimizer: Any, args: Any, kwargs: Any) -> None:
        for group in optimizer.param_groups if active else []:
            for tensor in group["params"]:
                tensor.sub_(tensor.grad, alpha=group["lr"])
        active.clear()

    def hooked(optimizer: Any, group: Any) -> None:
        add_group(optimizer, group)
        optimizer.register_step_post_hook(again)

    @functools.wraps(right)
    def wrong(loss: Any, **arguments: Any) -> Any:
        total = right(loss, **arguments)
        active.extend([True] * (total is not loss))
        return total

    patch.setattr(torch.optim.Optimizer, "add_param_group", hooked)
    patch.setattr(bridge, "loss", wrong)


def take_other_rows(patch: pytest.MonkeyPatch) -> None:
    """Make the synthesis give each class the real rows of another."""
    right = Embeddings.real

    def wrong(self: Embeddings, teacher: str) -> Any:
        real = right(self, teacher)
        return replace(real, values=real.values.roll(int((real.labels == real.labels[0]).sum()), 0))

    patch.setattr(Embeddings, "real", wrong)


def swap_keys(patch: pytest.MonkeyPatch) -> None:
    """Make the synthesis take the first two of several networks for each other."""
    right = bridge.watch

    @functools.wraps(right)
    def wrong(network: Any, **arguments: Any) -> None:
        if not isinstance(network, torch.nn.Module):
            first, second, *others = network
            network = [second, first, *others]
        right(network, **arguments)

    patch.setattr(bridge, "watch", wrong)


def reverse_names(patch: pytest.MonkeyPatch) -> None:
    """Make the synthesis get the networks' names from a list in another order."""
    right = bridge.watch
    patch.setattr(bridge, "watch", functools.wraps(right)(lambda network, *, names: right(network, names=names[::-1])))


BRIDGES: dict[str, Change] = {
    "rates": double_rates,
    "update": move_more,
    "real": take_other_rows,
    "keys": swap_keys,
    "names": reverse_names,
}
"""Mutant → what puts it in place in a process that imports the package afterwards."""

Places = dict[int, list[str]]


def finish_before_clipping(places: Places, published: list[str]) -> Places | None:
    """Report a step right after the optimiser's own line; None where nothing is clipped in between."""
    ((line, text),) = ((line, text) for line, texts in places.items() for text in texts if "bridge.step_done(" in text)
    after = next(at for at in range(line, 0, -1) if ".step(" in published[at - 1])
    if not any("clip(" in one for one in published[after:line]):
        return None
    moved = {at: [one for one in texts if one is not text] for at, texts in places.items()}
    moved[after] = [*moved.get(after, []), text]
    return {at: moved[at] for at in sorted(moved) if moved[at]}


def leave_scaler_out(places: Places, published: list[str]) -> Places | None:
    """Hand no scaler over; None where none is."""
    changed = {at: [text.replace(", scaler=scaler", "") for text in texts] for at, texts in places.items()}
    return None if changed == places else changed


PATCHES: dict[str, Callable[[Places, list[str]], Places | None]] = {
    "clipping": finish_before_clipping,
    "scaler": leave_scaler_out,
}
"""Mutant → what changes a script's inserted lines, given those by line and the published lines; None: nothing to."""


def change_patch(patch: Patch, script: str, published: Path, name: str) -> dict[str, Places] | None:
    """Return the lines of a patch by file and line, with the mutant `name` in those of one script."""
    places = {file.path: {hunk.after: list(hunk.inserted) for hunk in file.hunks} for file in patch.files}
    changed = PATCHES[name](places[script], (published / script).read_text().splitlines())
    return None if changed is None else places | {script: changed}
