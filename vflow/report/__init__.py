"""`vflow report`: training runs on one page, to look at and to send on."""

from vflow.report.page import ReportConfig, report
from vflow.report.runs import RunRecord, read_run

__all__ = ["ReportConfig", "RunRecord", "read_run", "report"]
