"""Reports as single HTML files: of an exploration, of one over several tasks, and of an evaluation."""

from medspectrum.report.evaluation import write_evaluation
from medspectrum.report.page import write
from medspectrum.report.together import write_together

__all__ = ["write", "write_evaluation", "write_together"]
