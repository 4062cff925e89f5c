"""Reports as single HTML files: of an exploration, also over several tasks, of an evaluation, of a choice."""

from medspectrum.report.evaluation import write_evaluation
from medspectrum.report.gallery import write_gallery
from medspectrum.report.page import write
from medspectrum.report.together import write_together

__all__ = ["write", "write_evaluation", "write_gallery", "write_together"]
