"""Reports as single HTML files: of an exploration (``write``) and of an evaluation (``write_evaluation``)."""

from medspectrum.report.evaluation import write_evaluation
from medspectrum.report.page import write

__all__ = ["write", "write_evaluation"]
