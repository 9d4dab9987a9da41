"""Reproduce the paper's tables and figures, one command each.

`paper_tables.py` holds what the paper prints, `request.py` and `scales.py` turn rows and columns into runs, `fill.py`
fills the cells, `table.py` shows and stores the result, `costs.py` estimates what the runs would cost.
"""

from dire_plug.paper.reproduce.fill import reproduce
from dire_plug.paper.reproduce.paper_tables import load_target, target_names
from dire_plug.paper.reproduce.request import TableRequest, check_preset, select
from dire_plug.paper.reproduce.result import TableResult
from dire_plug.paper.reproduce.table import render, to_json

__all__ = [
    "TableRequest",
    "TableResult",
    "check_preset",
    "load_target",
    "render",
    "reproduce",
    "select",
    "target_names",
    "to_json",
]
