"""The paper's tables and figures, one command each.

`printed.py` holds what the paper prints, `selection.py` and `scales.py` turn rows and columns into runs, `filling/`
fills cells, `outcome.py` is the whole in order, `show.py` the table that comes out, `costs.py` what it would cost.
"""

from dire_plug.paper.reproduce.paper_tables import load_target, target_names
from dire_plug.paper.reproduce.request import Order, select
from dire_plug.paper.reproduce.result import Outcome, folder_of, reproduce
from dire_plug.paper.reproduce.table import as_text, render, to_json

__all__ = [
    "Order",
    "Outcome",
    "as_text",
    "folder_of",
    "load_target",
    "render",
    "reproduce",
    "select",
    "target_names",
    "to_json",
]
