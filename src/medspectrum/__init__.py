"""medspectrum: which foundation model, adapted how, is worth the effort on your own scans."""

from __future__ import annotations

import importlib
import sys
import types
from typing import TYPE_CHECKING, Any

from medspectrum.verbs import VERBS, verb

__version__ = "0.1.0"

if TYPE_CHECKING:
    from medspectrum import federate as federate
    from medspectrum.agreement import agreement as agreement
    from medspectrum.attack import attack as attack
    from medspectrum.audit import audit as audit
    from medspectrum.catalogue import datasets as datasets
    from medspectrum.catalogue import methods as methods
    from medspectrum.catalogue import models as models
    from medspectrum.catalogue import tasks as tasks
    from medspectrum.curate import curate as curate
    from medspectrum.deidentify import deidentify as deidentify
    from medspectrum.describe import describe as describe
    from medspectrum.doctor import doctor as doctor
    from medspectrum.encrypted import encrypted as encrypted
    from medspectrum.evaluate import evaluate as evaluate
    from medspectrum.evaluate import predict as predict
    from medspectrum.explain import explain as explain
    from medspectrum.explore import explore as explore
    from medspectrum.generalise import generalise as generalise
    from medspectrum.merge import merge as merge
    from medspectrum.register import register as register
    from medspectrum.segment import segment as segment
    from medspectrum.suggest import suggest as suggest
    from medspectrum.synthesise import synthesise as synthesise


class _Package(types.ModuleType):
    """The package with its verbs as attributes, though modules of the same names lie inside it.

    Python hangs a module under its name on the package when it is first imported; a property, which
    drops what is set, keeps ``medspectrum.explore`` the function. ``from medspectrum.explore import ...``
    and ``importlib`` reach the module as ever.
    """

    def __dir__(self) -> list[str]:
        return ["__version__", *dict.fromkeys(name.split()[0] for name in VERBS)]


def _verb(name: str) -> property:
    def find(package: types.ModuleType) -> Any:  # noqa: ARG001 - a property's getter is given its owner
        return verb(name) if name in VERBS else importlib.import_module(f"medspectrum.{name}")

    def drop(package: types.ModuleType, module: Any) -> None:
        """What the import system hangs on the package under a verb's name is not wanted."""

    return property(find, drop)


for _name in VERBS:
    setattr(_Package, _name.split()[0], _verb(_name.split()[0]))
sys.modules[__name__].__class__ = _Package
