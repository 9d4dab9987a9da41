"""Offer runs and comparisons to Python and notebooks: `calls.py` makes or finds them, `results.py` holds them."""

from dire_plug.python.calls import compare, evaluate, load_comparison, load_run, measure, run
from dire_plug.python.results import ComparisonResult, Images, RunResult, SetResult

__all__ = [
    "ComparisonResult",
    "Images",
    "RunResult",
    "SetResult",
    "compare",
    "evaluate",
    "load_comparison",
    "load_run",
    "measure",
    "run",
]
