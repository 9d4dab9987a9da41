"""From a specification to a synthesis with its adapter and its plugins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from dire_plug import plugins
from dire_plug.errors import DirePlugError
from dire_plug.recipe.weight import take_weight
from dire_plug.synthesis.reporting import Emit
from dire_plug.synthesis.running import RunningSynthesis
from dire_plug.synthesis.spec import SynthesisSpec


def open_synthesis(spec: Mapping[str, Any], emit: Emit) -> RunningSynthesis:
    """Make the synthesis that `spec` (a `SynthesisSpec` as JSON) describes: its adapter, its plugins, nothing else.

    Raises:
        DirePlugError: a plugin's code isn't that by which the synthesis was named.
    """
    known = SynthesisSpec(**spec)
    _check_code(known)
    adapter = plugins.load_adapter(known.adapter)
    active: dict[str, object] = {known.adapter: adapter}
    for name, settings in known.regularizers.items():
        factory, (_, own) = plugins.load("regularizers", name), take_weight(settings)
        active[name] = factory(factory.settings_model(**own))
    return RunningSynthesis(known, adapter=adapter, manager=plugins.build_manager(active), emit=emit)


def _check_code(spec: SynthesisSpec) -> None:
    """Raise where a plugin's code isn't that by which the synthesis was named.

    Raises:
        DirePlugError: it was edited since.
    """
    for name, digest in spec.code.items():
        kind, _, plugin = name.partition("/")
        if plugins.code_of(cast(plugins.Kind, kind), plugin) != digest:
            raise DirePlugError(
                f"the code of {name} was edited while this run was being made; run the command again: "
                "another formula makes another run"
            )
