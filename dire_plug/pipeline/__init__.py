"""Run the stages in order: `run.py` is the table of contents of a run, `request.py` comes before it."""

from dire_plug.pipeline.request import plan_run, with_data
from dire_plug.pipeline.run import run_arm
from dire_plug.store.runs import FinishedRun, Request, Run

__all__ = ["FinishedRun", "Request", "Run", "plan_run", "run_arm", "with_data"]
