"""The report of a study: one HTML file that works offline, its figures as SVG files, and comparisons.json beside it.

page        the context of the page, curves and convergence, and what is written
card        one task x protocol: verdict, tables, figures
details     classes, calibration, ROC, other metrics, worst cases of a task x protocol
reading     how the page is to be read, and what it can't show
provenance  cost, settings, datasets, runs
figures, lines   the drawings; style: how a start looks, and SVG for the page and for a file
words       names and numbers as a reader sees them
"""

from radnet_jax.evaluation.report.page import COMPARISONS_FILE, REPORT_FILE, write_report

__all__ = ["COMPARISONS_FILE", "REPORT_FILE", "write_report"]
