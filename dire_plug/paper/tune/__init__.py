"""Search weights of a term on validation images: `space.py` says what is searched, `study.py` keeps the trials in
Optuna's journal, `search.py` runs them and tests the best, `tune_table.py` shows and draws them.
"""

from dire_plug.paper.tune.search import Tuned, plan_study, tune
from dire_plug.paper.tune.tune_table import draw_tuned, load_tuned, render_tuned, store_tuned, tuned_json

__all__ = [
    "Tuned",
    "draw_tuned",
    "load_tuned",
    "plan_study",
    "render_tuned",
    "store_tuned",
    "tune",
    "tuned_json",
]
