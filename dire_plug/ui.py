"""What the user sees while something runs: lines, and bars where the output is a terminal."""

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Advance = Callable[..., None]
"""Call it with the number of finished units, and by keyword the values to show beside the bar."""

_console = Console(stderr=True, highlight=False, soft_wrap=True)
_verbose = False


def configure(*, verbose: bool) -> None:
    """Set whether `detail` lines are shown."""
    global _verbose
    _verbose = verbose


def say(message: str) -> None:
    """Print one line of progress on the standard error stream."""
    _console.print(message, markup=False)


def detail(message: str) -> None:
    """Print a line that only `-v` shows."""
    if _verbose:
        say(message)


def warn(message: str) -> None:
    """Print a warning."""
    _console.print(f"warning: {message}", markup=False, style="yellow")


def show(content: RenderableType) -> None:
    """Print a result on the standard output stream."""
    Console(highlight=False).print(content)


@contextlib.contextmanager
def progress(description: str, total: int) -> Iterator[Advance]:
    """Show the progress of `total` units: a bar on a terminal, otherwise a plain line now and then."""
    shown = _bar(description, total) if _console.is_terminal else _lines(description, total)
    with shown as advance:
        yield advance


@contextlib.contextmanager
def _bar(description: str, total: int) -> Iterator[Advance]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[values]}"),
    )
    with Progress(*columns, console=_console, transient=True) as bar:
        task = bar.add_task(description, total=total, values="")

        def advance(done: int, **values: float) -> None:
            bar.update(task, completed=done, values=_format(values))

        started = time.monotonic()
        yield advance
    _finish(description, started)


@contextlib.contextmanager
def _lines(description: str, total: int) -> Iterator[Advance]:
    started = printed = time.monotonic()

    def advance(done: int, **values: float) -> None:
        nonlocal printed
        if time.monotonic() - printed >= 10:
            printed = time.monotonic()
            say(f"{description}: {done}/{total} {_format(values)}".rstrip())

    yield advance
    _finish(description, started)


def _finish(description: str, started: float) -> None:
    if (took := time.monotonic() - started) >= 2:
        say(f"{description}: done in {took:.0f} s")


def _format(values: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())
