"""RUN/report: the HTML report of a run, with its figures as JSON and its plots.

Public names: `write_report` (a finished run's folder), `write_folder` and `ReportInput` (the same from arrays), `assess`,
`Report`, `render_table` (Table 1 for a terminal), `Comparison` and `ComparisonRow` (RUN/comparison.json).
"""

from blastscope.train.report.data import Comparison, ComparisonRow, Report, ReportInput, assess
from blastscope.train.report.writer import render_table, write_folder, write_report

__all__ = [
    "Comparison",
    "ComparisonRow",
    "Report",
    "ReportInput",
    "assess",
    "render_table",
    "write_folder",
    "write_report",
]
