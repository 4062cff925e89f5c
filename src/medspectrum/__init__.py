"""medspectrum: which foundation model, adapted how, is worth the effort on your own scans."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from medspectrum.catalogue import datasets as datasets
    from medspectrum.catalogue import methods as methods
    from medspectrum.catalogue import models as models
    from medspectrum.catalogue import tasks as tasks
    from medspectrum.describe import describe as describe
    from medspectrum.doctor import doctor as doctor
    from medspectrum.evaluate import evaluate as evaluate
    from medspectrum.evaluate import predict as predict
    from medspectrum.explore import explore as explore


def __getattr__(name: str) -> Any:
    from medspectrum.verbs import VERBS, verb

    if name in VERBS:
        return verb(name)
    raise AttributeError(f"module 'medspectrum' has no attribute {name!r}")


def __dir__() -> list[str]:
    from medspectrum.verbs import VERBS

    return ["__version__", *VERBS]
