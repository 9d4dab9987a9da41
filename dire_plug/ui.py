"""Print messages and results, and show progress: bars on a terminal, otherwise lines."""

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console, RenderableType
from rich.live import Live
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Advance = Callable[..., None]
"""Called with the number of finished units, and by keyword the values to show beside the bar."""
Follow = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and the whole."""

WIDE = 100_000
"""A width that no table exceeds, in columns."""

_console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)
_verbose = False
_said: set[str] = set()
_follow: Follow | None = None
_shown: list[RenderableType] | None = None


def configure(*, verbose: bool) -> None:
    """Set whether `detail` lines and tracebacks are shown; called at the start of a command."""
    global _verbose
    _verbose = verbose
    _said.clear()


def is_verbose() -> bool:
    """Return whether the user passed `-v`."""
    return _verbose


def say(message: str) -> None:
    """Print one line of progress on the standard error stream."""
    _console.print(_printable(message))


def say_once(message: str) -> None:
    """Print a line, unless this command has printed it before."""
    if message not in _said:
        _said.add(message)
        say(message)


def detail(message: str) -> None:
    """Print a line with `-v` only."""
    if _verbose:
        say(message)


def warn(message: str) -> None:
    """Print a warning."""
    _console.print(_printable(f"warning: {message}"), style="yellow")


def _printable(text: str) -> str:
    """Escape bytes that aren't UTF-8, which a file's name may have, as in `\\udcff`."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


@contextlib.contextmanager
def collecting() -> Iterator[list[RenderableType]]:
    """Also collect what `show` prints inside the block, in its order."""
    global _shown
    before, _shown = _shown, []
    try:
        yield _shown
    finally:
        _shown = before


def show(content: RenderableType) -> None:
    """Print a result on the standard output stream: text as it is, tables in full.

    Text isn't wrapped, and brackets in it are no markup. A table (see `tables`) gets the width that it needs where the
    stream is no terminal; a terminal that is too narrow gets several.
    """
    if _shown is not None:
        _shown.append(content)
    console = Console(highlight=False, markup=False, emoji=False)
    # a file or a pipe must not cut tables at 80 columns
    if not console.is_terminal:
        wide = console.options.update(width=WIDE)
        console.width = max(console.width, Measurement.get(console, wide, content).maximum)
    if isinstance(content, str):
        console.print(_printable(content), soft_wrap=True)
    else:
        console.print(content, crop=False)


@contextlib.contextmanager
def live() -> Iterator[Callable[[RenderableType], None]]:
    """Yield a function that shows something in place of what it showed before; nothing where there is no terminal."""
    if not _console.is_terminal:
        yield lambda content: None
        return
    with Live(console=_console, transient=True, auto_refresh=False) as shown:
        yield lambda content: shown.update(content, refresh=True)


@contextlib.contextmanager
def progress(description: str, total: int) -> Iterator[Advance]:
    """Show the progress of `total` units: a bar on a terminal, otherwise a line every ten seconds."""
    shown = _bar(description, total) if _console.is_terminal else _lines(description, total)
    with shown as advance:
        if (follow := _follow) is None:
            yield advance
            return

        def advance_both(done: int, **values: float) -> None:
            advance(done, **values)
            follow(description, done, total)

        follow(description, 0, total)
        yield advance_both


@contextlib.contextmanager
def following(follow: Follow) -> Iterator[None]:
    """Also tell `follow` all progress, while the block runs."""
    global _follow
    before, _follow = _follow, follow
    try:
        yield
    finally:
        _follow = before


@contextlib.contextmanager
def _bar(description: str, total: int) -> Iterator[Advance]:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[values]}", markup=False),
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
        # a log file must not fill with lines
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
