"""Ablate DiRe: `components.py` runs the seven combinations of its components, `sweep.py` tries settings around the
recipe's own on validation images, `sweep_table.py` shows and draws them; all run settings by `trials.py`.
"""

from dire_plug.paper.ablate.components import Components, ablate_components, components_json, render_components
from dire_plug.paper.ablate.sweep import Sweep, sweep
from dire_plug.paper.ablate.sweep_table import draw_trials, render_sweep, sweep_json

__all__ = [
    "Components",
    "Sweep",
    "ablate_components",
    "components_json",
    "draw_trials",
    "render_components",
    "render_sweep",
    "sweep",
    "sweep_json",
]
