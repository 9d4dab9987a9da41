"""Call the hooks of a synthesis's plugins one by one, so that an error has the plugin's name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import pluggy

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

    def ask(self, hook: str, unchanged: Answer, **arguments: Any) -> Answer:
        """Return the one answer to a hook, or `unchanged` where nobody answers.

        Raises:
            PluginError: two plugins answer, or one raised.
        """
        # not pluggy's own call: it would stop at the first error without the plugin's name, and hides who answered
        answers = {}
        for implementation in self.of(hook):
            answer = self.call(implementation, arguments)
            if answer is not None:
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
