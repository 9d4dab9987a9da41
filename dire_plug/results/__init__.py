"""Compare arms: `arms.py` runs them, `statistics.py` sums them up, `table.py` shows them; `report/` is a page."""

from dire_plug.results.comparison import Comparison, compare
from dire_plug.results.table import draw_ladder, render, store_comparison, to_json

__all__ = ["Comparison", "compare", "draw_ladder", "render", "store_comparison", "to_json"]
