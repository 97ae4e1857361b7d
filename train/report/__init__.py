"""RUN/report: the HTML report of a run, with its figures as JSON and its plots.

Public names: `write_report` (a finished run's folder), `write_folder` and `ReportInput` (the same from arrays), `assess`,
`Report`, `render_table` (Table 1 for a terminal), `RecipeComparison` and `ComparisonRow` (RUN/comparison.json).
"""

from blastscope.train.report.data import ComparisonRow, RecipeComparison, Report, ReportInput, assess
from blastscope.train.report.writer import render_table, write_folder, write_report

__all__ = [
    "ComparisonRow",
    "RecipeComparison",
    "Report",
    "ReportInput",
    "assess",
    "render_table",
    "write_folder",
    "write_report",
]
