"""Time syntheses arm by arm, as in Table 15: `arms.py` sets one up and runs it, `measure.py` times several with their
steps interleaved and estimates the whole, `table.py` shows it.
"""

from dire_plug.paper.timing.step_times import ArmTiming, Timing, time_arms
from dire_plug.paper.timing.table import render

__all__ = ["ArmTiming", "Timing", "render", "time_arms"]
