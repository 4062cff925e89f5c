"""The command line: each verb's options, help and defaults are read from the Python function itself."""

from __future__ import annotations

import difflib
import functools
import inspect
import json
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from medspectrum.errors import UserError
from medspectrum.verbs import VERBS, summary, verb

DONE, FAILED, BAD_INPUT, LEFT_OUT = 0, 1, 2, 3


class Verbs(TyperGroup):
    """Loads a verb's module when that verb is asked for; the list of verbs costs no import."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - the library's signature
        """Verbs in the order of a user's work."""
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002 - as above
        """The command of a verb; for the list of verbs only its name and one line."""
        parts = [name for name in VERBS if name.startswith(f"{cmd_name} ")]
        if parts:
            return _Parts(cmd_name, parts)
        if cmd_name not in VERBS:
            near = difflib.get_close_matches(cmd_name, VERBS, n=2)
            hint = f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(VERBS)}."
            raise UserError(f"there is no command {cmd_name!r}; {hint}")
        if "--help" in sys.argv[1:2] or not sys.argv[1:]:
            return TyperCommand(cmd_name, help=summary(cmd_name), rich_markup_mode=None)
        return command(cmd_name)


class _Parts(TyperGroup):
    """The verbs of two words that share the first."""

    def __init__(self, word: str, parts: list[str]) -> None:
        super().__init__(name=word, no_args_is_help=True, rich_markup_mode=None)
        self.parts = {name.split()[1]: name for name in parts}

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - the library's signature
        """Second words in the order of a user's work."""
        return list(self.parts)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002 - as above
        """The command of both words; for the list only its name and one line."""
        if cmd_name not in self.parts:
            raise UserError(
                f"there is no command '{self.name} {cmd_name}'; there are: {', '.join(self.parts)}."
            )
        if "--help" in sys.argv[2:3] or not sys.argv[2:]:
            return TyperCommand(cmd_name, help=summary(self.parts[cmd_name]), rich_markup_mode=None)
        return command(self.parts[cmd_name])


def command(name: str) -> Any:
    """The command of a verb, derived from its signature and docstring."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command(name)(_callback(name, verb(name)))
    return typer.main.get_command(app)


def _callback(name: str, function: Callable[..., Any]) -> Callable[..., None]:
    signature = inspect.signature(function, eval_str=True)
    told = setting_help(function)
    parameters = []
    for p in signature.parameters.values():
        kind = typer.Option if p.kind is p.KEYWORD_ONLY else typer.Argument
        # a name that Python keeps for itself ends in a stroke there, and not here
        named = (f"--{p.name[:-1]}",) if p.name.endswith("_") else ()
        parameters.append(
            p.replace(
                annotation=Annotated[p.annotation, kind(*named, help=told.get(p.name, ""))],
                kind=p.POSITIONAL_OR_KEYWORD,
            )
        )
    required = [p for p in parameters if p.default is p.empty]
    others = [p for p in parameters if p.default is not p.empty]
    as_json = inspect.Parameter(
        "json_",
        inspect.Parameter.POSITIONAL_OR_KEYWORD,
        default=False,
        annotation=Annotated[bool, typer.Option("--json", help="print the result as JSON")],
    )

    @functools.wraps(function)
    def run(json_: bool = False, **settings: Any) -> None:
        result = function(**settings)
        refused = isinstance(result, dict) and result.get("verdict", "equal") not in ("equal", "fits")
        if refused and not json_:
            raise UserError(result["sentence"])
        if json_:
            sys.stdout.write(json.dumps(result, indent=1) + "\n")
        else:
            from medspectrum.console import show

            show(name, result)
        left_out = isinstance(result, dict) and (
            result.get("left_out")
            or result.get("unreadable")
            or (name == "describe" and result["masks"].get("unfit"))
        )
        raise typer.Exit(BAD_INPUT if refused else LEFT_OUT if left_out else DONE)

    run.__signature__ = inspect.Signature([*required, *others, as_json])  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in (*required, *others, as_json)}
    run.__doc__ = inspect.cleandoc(function.__doc__ or "").split("\n")[0]
    return run


def setting_help(function: Callable[..., Any]) -> dict[str, str]:
    """``name: meaning`` lines of a docstring, by name; a meaning may run over several lines."""
    names = set(inspect.signature(function).parameters)
    told: dict[str, str] = {}
    current = ""
    for line in inspect.cleandoc(function.__doc__ or "").split("\n"):
        head, colon, rest = line.partition(": ")
        if colon and head in names:
            current = head
            told[head] = rest.strip()
        elif current and line.strip():
            told[current] += " " + line.strip()
        else:
            current = ""
    return told


def main() -> None:
    """Run the command line. Exit code 0 done, 2 usage or bad input, 3 finished with cases left out."""
    app = typer.Typer(
        cls=Verbs,
        add_completion=False,
        rich_markup_mode=None,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        help="Finds, on your own scans, which foundation model adapted how is worth the effort.",
    )
    app.callback()(_root)
    try:
        typer.main.get_command(app)(prog_name="medspectrum")
    except UserError as error:
        sys.stderr.write(f"medspectrum: {error}\n")
        sys.exit(BAD_INPUT)
    except KeyboardInterrupt:
        sys.stderr.write(
            "medspectrum: stopped; what was computed is kept, the same command goes on from here\n"
        )
        sys.exit(130)


def _show_version(wanted: bool) -> None:
    if wanted:
        from medspectrum import __version__

        sys.stdout.write(f"medspectrum {__version__}\n")
        raise typer.Exit(DONE)


def _root(
    version: Annotated[
        bool, typer.Option("--version", help="show the version", is_eager=True, callback=_show_version)
    ] = False,
) -> None:
    """Options before the verb; the version is shown by its callback."""
