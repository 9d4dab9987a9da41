"""One HTML page of finished runs, and the paper's three figures: `page.py` puts together what the others make."""

from dire_plug.results.report.class_grid import draw_class_grid
from dire_plug.results.report.page import write_report
from dire_plug.results.report.runs import ReportRun, find_runs, read_run
from dire_plug.results.report.similarity import draw_class_similarity
from dire_plug.results.report.tsne import draw_tsne

__all__ = [
    "ReportRun",
    "draw_class_grid",
    "draw_class_similarity",
    "draw_tsne",
    "find_runs",
    "read_run",
    "write_report",
]
