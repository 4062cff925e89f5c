"""How far long work is: bars on a console, nothing where quiet was asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

Step = Callable[[int, int], None]


@dataclass(frozen=True)
class Progress:
    """``step(title)`` opens a row and gives what to call with (done, total)."""

    step: Callable[[str], Step]


def silent() -> Progress:
    """Progress that shows nothing."""
    return Progress(lambda title: lambda done, total: None)  # noqa: ARG005 - names tell the meaning


@contextmanager
def progress_for(*, quiet: bool) -> Iterator[Progress]:
    """Bars on the console, or nothing."""
    if quiet:
        yield silent()
        return
    with on_console() as progress:
        yield progress


@contextmanager
def on_console() -> Iterator[Progress]:
    """Progress as Rich bars on standard error, so that standard output stays for results."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=Console(stderr=True)) as bars:

        def step(title: str) -> Step:
            row = bars.add_task(title, total=None)
            return lambda done, total: bars.update(row, completed=done, total=total)

        yield Progress(step)
