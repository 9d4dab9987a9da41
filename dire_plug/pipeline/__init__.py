"""The table of contents of a run: `run.py` has the stages in order, `request.py` what comes before them."""

from dire_plug.pipeline.request import PlannedRun, Request, plan_run
from dire_plug.pipeline.run import FinishedRun, run_arm

__all__ = ["FinishedRun", "PlannedRun", "Request", "plan_run", "run_arm"]
