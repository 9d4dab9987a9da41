"""From a specification to a synthesis with its adapter and its plugins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dire_plug import plugins
from dire_plug.recipe.weight import take_weight
from dire_plug.synthesis.reporting import Emit
from dire_plug.synthesis.running import RunningSynthesis
from dire_plug.synthesis.spec import SynthesisSpec


def open_synthesis(spec: Mapping[str, Any], emit: Emit) -> RunningSynthesis:
    """Make the synthesis that `spec` (a `SynthesisSpec` as JSON) describes: its adapter, its plugins, nothing else."""
    known = SynthesisSpec(**spec)
    adapter = plugins.load_adapter(known.adapter)
    active: dict[str, object] = {known.adapter: adapter}
    for name, settings in known.regularizers.items():
        factory, (_, own) = plugins.load("regularizers", name), take_weight(settings)
        active[name] = factory(factory.settings_model(**own))
    return RunningSynthesis(known, adapter=adapter, manager=plugins.build_manager(active), emit=emit)
