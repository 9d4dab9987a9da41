"""Arms side by side: `arms.py` runs them, `statistics.py` sums them up, `table.py` and
`picture.py` show them.
"""

from dire_plug.compare.arms import Comparison, compare
from dire_plug.compare.picture import draw
from dire_plug.compare.table import render, to_json

__all__ = ["Comparison", "compare", "draw", "render", "to_json"]
