"""Compare arms: `arms.py` runs them, `statistics.py` sums them up, `table.py` shows them; `report/` is a page."""
