"""Call the hooks of a synthesis's plugins one by one, so that an error has the plugin's name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import pluggy
import torch
from torch import Tensor

from dire_plug.api.rows import labels_on_host
from dire_plug.errors import DirePlugError, PluginError
from dire_plug.types import Synthesis

Answer = TypeVar("Answer")


class Hooks:
    """The hooks of the active plugins of one synthesis, which is an argument of each call.

    Attributes:
        asked: the name of the plugin that was called last; "" before the first call.
    """

    def __init__(self, manager: pluggy.PluginManager, synthesis: Synthesis) -> None:
        """Take the active plugins from `manager`."""
        self._manager = manager
        self._synthesis = synthesis
        self.asked = ""

    def of(self, hook: str) -> list[pluggy.HookImpl]:
        """Return what implements one hook, in the order in which plugins were registered."""
        implementations: list[pluggy.HookImpl] = getattr(self._manager.hook, hook).get_hookimpls()
        return implementations

    def name_of(self, plugin: object) -> str | None:
        """Return the name of an active plugin; None where it isn't active."""
        return self._manager.get_name(plugin)

    def plugin(self, name: str) -> object | None:
        """Return an active plugin; None where none of that name is active."""
        plugin: object | None = self._manager.get_plugin(name)
        return plugin

    def ask(self, hook: str, unchanged: Answer, *, check: Callable[[Any], str | None], **arguments: Any) -> Answer:
        """Return the one answer to a hook, or `unchanged` where nobody answers.

        Args:
            check: says what of an answer can't be used, and what is expected; None where it can.

        Raises:
            PluginError: two plugins answer, one raised, or its answer can't be used.
        """
        # not pluggy's own call: it would stop at the first error without the plugin's name, and hides who answered
        answers = {}
        for implementation in self.of(hook):
            answer = self.call(implementation, arguments)
            if answer is not None:
                if problem := check(answer):
                    raise PluginError(f"plugin '{implementation.plugin_name}': {hook} returned {problem}")
                answers[implementation.plugin_name] = answer
        if len(answers) > 1:
            raise PluginError(f"two plugins answer {hook}: {' and '.join(sorted(answers))}; at most one may")
        return next(iter(answers.values()), unchanged)

    def tell(self, hook: str, **arguments: Any) -> None:
        """Call every implementation of a hook.

        Raises:
            PluginError: a plugin raised.
        """
        for implementation in self.of(hook):
            self.call(implementation, arguments)

    def call(self, implementation: pluggy.HookImpl, arguments: Mapping[str, Any]) -> Any:
        """Return what one plugin answers; it gets those of the arguments, and the synthesis, that it takes.

        Raises:
            DirePlugError: the plugin raised one, or anything else (PluginError).
        """
        name, hook = implementation.plugin_name, implementation.function.__name__
        # a hook may take fewer arguments than the specification has, as pluggy allows
        given = {"synthesis": self._synthesis, **arguments}
        self.asked = name
        try:
            return implementation.function(*(given[argument] for argument in implementation.argnames))
        except DirePlugError as error:
            # the same class, so that the exit code stays that of the error
            raise type(error)(f"plugin '{name}': {error}") from error
        except Exception as error:
            raise PluginError(f"plugin '{name}': {hook} raised {type(error).__name__}: {error}") from error


# What an answer must be: said of one that isn't.


def check_integers(answer: Any, *, like: Tensor | None = None) -> str | None:
    """Return what is wrong with labels, [N], or with an order, which has the shape of the one that it replaces."""
    wanted = "whole numbers" + (", [N]" if like is None else f", {list(like.shape)}")
    shaped = isinstance(answer, Tensor) and (answer.ndim == 1 if like is None else answer.shape == like.shape)
    if shaped and is_usable(answer) and answer.dtype in (torch.int64, torch.int32):
        return None
    return f"{describe(answer)}, expected a tensor of {wanted}, int64"


def check_order(answer: Any, *, order: Tensor) -> str | None:
    """Return what is wrong with an order instead of `order`, [N]: an image left out would keep its noise."""
    if (wrong := check_integers(answer, like=order)) is not None:
        return wrong
    if torch.equal(answer.cpu().sort().values, order.cpu().sort().values.to(answer.dtype)):
        return None
    return "an order that leaves images out or repeats them, expected each image of the script's order once"


def check_labels(answer: Any, *, classes: int) -> str | None:
    """Return what is wrong with a slot's labels, [N]: one that is no class would end a GPU's process."""
    if (wrong := check_integers(answer)) is not None:
        return wrong
    known = labels_on_host(answer)
    if not len(known) or (known.min() >= 0 and known.max() < classes):
        return None
    return f"labels from {known.min()} to {known.max()}, expected classes from 0 to {classes - 1}"


def check_images(answer: Any, *, images: Tensor, labels: Tensor) -> str | None:
    """Return what is wrong with start images for a slot's labels, [N], instead of `images`, [M, 3, H, W].

    They may be of another height and width: small datasets start so in a script for larger images.
    """
    if isinstance(answer, Tensor) and is_usable(answer) and answer.is_floating_point() and answer.ndim == images.ndim:
        rows, channels, *size = answer.shape
        if (rows, channels) == (len(labels), images.shape[1]) and all(size):
            return None
    wanted = f"[{len(labels)}, {', '.join(map(str, images.shape[1:]))}]"
    return f"{describe(answer)}, expected a tensor of floating-point numbers, {wanted}: a row for each label"


def check_index(answer: Any) -> str | None:
    """Return what is wrong with the number of an image."""
    if isinstance(answer, int) and not isinstance(answer, bool) and answer >= 0:
        return None
    return f"{describe(answer)}, expected a whole number of at least 0"


def is_usable(tensor: Tensor) -> bool:
    """Return whether a tensor has values that can be read one by one: it isn't sparse, and not on `meta`."""
    return tensor.layout == torch.strided and not tensor.is_meta


def describe(answer: Any) -> str:
    """Describe an answer in a few words."""
    if not isinstance(answer, Tensor):
        return f"{type(answer).__name__} ({repr(answer)[:60]})"
    kind = "" if is_usable(answer) else "sparse " if answer.layout != torch.strided else "meta "
    return f"a {kind}tensor, {list(answer.shape)}, {str(answer.dtype).removeprefix('torch.')}"
