"""The report of a pruning: frozen data, rendered as a table, as JSON, or as one self-contained HTML page.

Nothing here knows a model: a report is built from plain numbers and names, and every name is untrusted text.
"""

from mipp.report.data import FrontierPoint, FrozenLine, GroupLine, Measures, Report
from mipp.report.inspection import Inspection

__all__ = ["FrontierPoint", "FrozenLine", "GroupLine", "Inspection", "Measures", "Report"]
