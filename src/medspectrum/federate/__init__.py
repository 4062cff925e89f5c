"""Learning over several sites whose cases stay where they are: what travels is statistics and weights.

A *plan* says what the server asks, what a site computes from its own cases, and what the server makes of the
answers. ``simulate`` runs a plan in one process.
"""

from __future__ import annotations

from typing import Any

from medspectrum.verbs import VERBS, verb


def __getattr__(name: str) -> Any:
    """The verb ``federate NAME``, its module imported when it is asked for."""
    if f"federate {name}" in VERBS:
        return verb(f"federate {name}")
    raise AttributeError(f"module 'medspectrum.federate' has no attribute {name!r}")
