"""How long a synthesis takes, side by side, as in Table 15: `sides.py` says what is timed, `children.py` runs it in a
process of its own, `measure.py` lets processes take turns, `estimates.py` sums up, `table.py` shows it.
"""

from dire_plug.paper.timing.estimates import SideTiming, Timing
from dire_plug.paper.timing.measure import TimingRequest, time_arms
from dire_plug.paper.timing.table import render

__all__ = ["SideTiming", "Timing", "TimingRequest", "render", "time_arms"]
