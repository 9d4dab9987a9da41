"""Offer runs and comparisons to Python and notebooks: `calls.py` and `studies.py` make or find them.

`results.py` and `study_results.py` hold them, `options.py` turns keywords into the command line's values.
"""

from dire_plug.python.calls import compare, evaluate, load_comparison, load_run, measure, run
from dire_plug.python.results import ComparisonResult, Images, RunResult, SetResult
from dire_plug.python.studies import compare_methods, load_methods, load_study, tune
from dire_plug.python.study_results import MethodsResult, StudyResult

__all__ = [
    "ComparisonResult",
    "Images",
    "MethodsResult",
    "RunResult",
    "SetResult",
    "StudyResult",
    "compare",
    "compare_methods",
    "evaluate",
    "load_comparison",
    "load_methods",
    "load_run",
    "load_study",
    "measure",
    "run",
    "tune",
]
