"""Compare arms: `arms.py` runs them, `statistics.py` sums them up, `table.py` shows them; `report/` is a page."""

from dire_plug.results.comparison import Comparison, compare
from dire_plug.results.table import draw, draw_ladder, render, to_json

__all__ = ["Comparison", "compare", "draw", "draw_ladder", "render", "to_json"]
