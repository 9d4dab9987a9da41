"""Report finished runs on one HTML page, and draw the paper's three figures: `page.py` puts the page together."""

from dire_plug.results.report.class_grid import draw_class, draw_class_grid
from dire_plug.results.report.page import write_report
from dire_plug.results.report.runs import ReportRun, find_runs, is_ladder, read_run
from dire_plug.results.report.similarity import draw_class_similarity
from dire_plug.results.report.tsne import draw_tsne

__all__ = [
    "ReportRun",
    "draw_class",
    "draw_class_grid",
    "draw_class_similarity",
    "draw_tsne",
    "find_runs",
    "is_ladder",
    "read_run",
    "write_report",
]
