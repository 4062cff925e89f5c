"""The public verbs: where each lives. Python names and commands are both read from here."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

VERBS = {
    "describe": "medspectrum.describe",
    "audit": "medspectrum.audit",
    "agreement": "medspectrum.agreement",
    "suggest": "medspectrum.suggest",
    "explore": "medspectrum.explore",
    "predict": "medspectrum.evaluate",
    "evaluate": "medspectrum.evaluate",
    "curate": "medspectrum.curate",
    "explain": "medspectrum.explain",
    "generalise": "medspectrum.generalise",
    "merge": "medspectrum.merge",
    "register": "medspectrum.register",
    "segment": "medspectrum.segment",
    "deidentify": "medspectrum.deidentify",
    "federate simulate": "medspectrum.federate.simulation",
    "encrypted": "medspectrum.encrypted",
    "synthesise": "medspectrum.synthesise",
    "attack": "medspectrum.attack",
    "models": "medspectrum.catalogue",
    "methods": "medspectrum.catalogue",
    "tasks": "medspectrum.catalogue",
    "datasets": "medspectrum.catalogue",
    "doctor": "medspectrum.doctor",
}


def verb(name: str) -> Callable[..., Any]:
    """The function of that verb; of ``GROUP NAME`` the function NAME."""
    return getattr(importlib.import_module(VERBS[name]), name.split()[-1])


def summary(name: str) -> str:
    """First line of a verb's docstring, read from its source, so that ``--help`` imports nothing heavy."""
    source = Path(__file__).parent.joinpath(*VERBS[name].split(".")[1:]).with_suffix(".py")
    for node in ast.parse(source.read_text()).body:
        if isinstance(node, ast.FunctionDef) and node.name == name.split()[-1]:
            return (ast.get_docstring(node) or "").split("\n")[0]
    return ""
