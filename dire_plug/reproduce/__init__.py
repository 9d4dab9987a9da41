"""The paper's tables and figures, one command each.

`printed.py` holds what the paper prints, `selection.py` and `scales.py` turn rows and columns into runs, `filling/`
fills cells, `outcome.py` is the whole in order, `show.py` the table that comes out, `costs.py` what it would cost.
"""

from dire_plug.reproduce.order import Order
from dire_plug.reproduce.outcome import Outcome, folder_of, reproduce
from dire_plug.reproduce.printed import load_target, target_names
from dire_plug.reproduce.selection import select
from dire_plug.reproduce.show import as_text, render, to_json

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
