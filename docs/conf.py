"""The documentation's build. Tables of models, methods, tasks and layouts are read from the registry."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "src"), str(HERE)]

from medspectrum import __version__  # noqa: E402

project = "medspectrum"
author = "the medspectrum contributors"
copyright = author
release = version = __version__
extensions = ["myst_parser"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_generated/*.md", "_build"]
html_theme = "furo"
html_title = "medspectrum"
html_static_path = ["_static"]
html_show_sphinx = False
templates_path: list[str] = []


def tables() -> dict[str, str]:
    """One Markdown table per kind of registered thing, and one of the verbs' settings."""
    import rows

    from medspectrum import registry
    from medspectrum.verbs import VERBS

    written = {"rows": rows.page(registry.entries("model"))}
    written |= {kind + "s": _table(registry.entries(kind), COLUMNS[kind]) for kind in COLUMNS}
    return written | {f"settings-{name.replace(' ', '-')}": _settings(name) for name in VERBS}


COLUMNS = {
    "model": {
        "level": lambda e: e.facts["card"].level,
        "modality": lambda e: e.facts["card"].modality,
        "organ": lambda e: e.facts["card"].organ,
        "dims": lambda e: e.facts["card"].dims,
        "licence": lambda e: e.facts["card"].licence,
        "source": lambda e: e.facts["card"].source,
    },
    "method": {"trains": lambda e: e.facts["trains"], "what it does": lambda e: e.summary},
    "task": {"what is asked": lambda e: e.summary},
    "dataset": {"what it is": lambda e: e.summary},
}


def _table(entries: dict, columns: dict) -> str:
    head = ["name", *columns]
    rows = [[f"`{name}`", *(str(get(e)) for get in columns.values())] for name, e in entries.items()]
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(c.replace("|", "\\|").replace("\n", " ") for c in row) + " |" for row in lines
    )


def _settings(name: str) -> str:
    """The settings of a verb, from its signature and docstring, as definition list."""
    import inspect

    from medspectrum.cli import setting_help
    from medspectrum.verbs import verb

    function = verb(name)
    told = setting_help(function)
    lines = []
    for parameter in inspect.signature(function).parameters.values():
        option = parameter.kind is parameter.KEYWORD_ONLY
        shown = f"--{parameter.name.rstrip('_').replace('_', '-')}" if option else parameter.name.upper()
        default = parameter.default
        given = "" if default in (inspect.Parameter.empty, None, "", False) else f" (default {default})"
        lines += [f"`{shown}`", f": {told.get(parameter.name, '').rstrip('.')}{given}.", ""]
    return "\n".join(lines)


def setup(app) -> None:  # noqa: ARG001 - called so by the builder
    """Write the tables before pages are read."""
    folder = HERE / "_generated"
    folder.mkdir(exist_ok=True)
    for name, text in tables().items():
        path = folder / f"{name}.md"
        if not path.is_file() or path.read_text() != text:
            path.write_text(text)
