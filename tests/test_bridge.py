"""What a patch calls reaches the running synthesis as it is, and the answer comes back as it is."""

import inspect
from collections.abc import Iterator
from typing import Any

import pytest

from dire_plug import bridge
from dire_plug.errors import DirePlugError
from dire_plug.synthesis import RunningSynthesis
from dire_plug.upstream.source.patching import bridge_functions

FORWARDED = [name for name in bridge_functions() if hasattr(RunningSynthesis, name)]
"""All that a patch may call but repairs, which need no synthesis."""
METHODS = {"steps": "steps_to_do"}
"""Function of bridge → the synthesis's method, where it has another name: `steps` is what plugins read."""
Call = tuple[str, tuple[object, ...], dict[str, object]]


class Listener:
    """Stands for a synthesis: notes each call and answers with an object of its own."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.answer = object()

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: object, **named: object) -> object:
            self.calls.append((name, arguments, named))
            return self.answer

        return call


@pytest.fixture
def listener() -> Iterator[Listener]:
    listener: Any = Listener()
    bridge.attach(listener)
    yield listener
    bridge.attach(None)


def arguments_of(name: str) -> tuple[list[object], dict[str, object]]:
    """Return an object of its own for each parameter of a function."""
    parameters = inspect.signature(getattr(bridge, name)).parameters.values()
    positional = [object() for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD]
    named = {one.name: object() for one in parameters if one.kind in (one.KEYWORD_ONLY, one.VAR_KEYWORD)}
    return positional, named


@pytest.mark.parametrize("name", FORWARDED)
def test_a_call_and_its_answer_are_handed_on_unchanged(name: str, listener: Listener) -> None:
    function = getattr(bridge, name)
    positional, named = arguments_of(name)
    answer = function(*positional, **named)
    assert listener.calls == [(METHODS.get(name, name), tuple(positional), named)]
    assert answer is (None if inspect.signature(function).return_annotation == "None" else listener.answer)


@pytest.mark.parametrize("name", FORWARDED)
def test_a_patched_script_without_a_synthesis_is_told_to_run_under_it(name: str) -> None:
    positional, named = arguments_of(name)
    with pytest.raises(DirePlugError, match="runs under `dire-plug run` only"):
        getattr(bridge, name)(*positional, **named)


def test_what_a_loop_calls_is_there_for_a_patch() -> None:
    assert {"watch", "labels", "start", "loss", "step_done", "image_index"} <= set(FORWARDED)
