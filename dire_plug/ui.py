"""Print messages and results, and show progress: bars on a terminal, otherwise lines."""

import contextlib
import io
import statistics
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from json import dumps
from typing import Any

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Advance = Callable[..., None]
"""Called with the number of finished units, and by keyword the values to show beside the bar."""
Follow = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and the whole."""

WIDE = 100_000
"""A width that no table exceeds, in columns."""

_console = Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)
_verbose = False
_json = False
_said: set[str] = set()
_follow: Follow | None = None
_shown: list[RenderableType] | None = None


def configure(*, verbose: bool | None = None, json: bool | None = None) -> None:
    """Set what is given; called when a command starts, and for its options.

    Args:
        verbose: whether `detail` lines and tracebacks are shown.
        json: whether results are printed as JSON on standard output, and all else on the standard error stream.
    """
    global _verbose, _json
    _verbose = _verbose if verbose is None else verbose
    _json = _json if json is None else json
    _said.clear()


def is_verbose() -> bool:
    """Return whether the user passed `-v`."""
    return _verbose


def say(message: str) -> None:
    """Print one line of progress on the standard error stream."""
    _console.print(_wrapped(message))


def say_once(message: str, *, say: Callable[[str], None] = say) -> None:
    """Print a line, or by `warn` a warning, unless this command has printed it before."""
    if message not in _said:
        _said.add(message)
        say(message)


def detail(message: str) -> None:
    """Print a line with `-v` only."""
    if _verbose:
        say(message)


def warn(message: str) -> None:
    """Print a warning."""
    _console.print(_wrapped(f"warning: {message}"), style="yellow")


def _wrapped(text: str) -> str:
    """Return a text whose lines end between words on a terminal; what is longer than a line is the terminal's to break.

    So a path can be copied from it, and a file has one line a message.
    """
    text = _printable(text)
    if not _console.is_terminal:
        return text
    return "\n".join(
        textwrap.fill(line, _console.width, break_long_words=False, break_on_hyphens=False) or line
        for line in text.splitlines()
    )


def _printable(text: str) -> str:
    """Escape bytes that aren't UTF-8, which a file's name may have, as in `\\udcff`."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def result(*contents: RenderableType, data: Callable[[], Any]) -> None:
    """Print a command's result: what people read, or with `--json` its data, which are made only then."""
    if _json:
        if _shown is not None:
            _shown.extend(contents)
        # not by the console, which would print escapes for a terminal
        sys.stdout.write(_printable(dumps(data(), indent=2, ensure_ascii=False, default=str)) + "\n")
        return
    for content in contents:
        show(content)


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
    """Print on the standard output stream: text as it is, tables in full; with `--json` on the standard error stream.

    Text isn't wrapped, and brackets in it are no markup. A table (see `tables`) that is wider than the terminal is
    split; in a file or a pipe it isn't, and no line ends in blanks.
    """
    if _shown is not None:
        _shown.append(content)
    console = Console(stderr=_json, highlight=False, markup=False, emoji=False)
    if isinstance(content, str):
        console.print(_printable(content), soft_wrap=True)
    elif console.is_terminal:
        console.print(content, crop=False)
    else:
        print(to_text(content), end="", file=console.file)


def to_text(content: RenderableType) -> str:
    """Return tables as plain lines, without blanks at their ends."""
    file = io.StringIO()
    Console(file=file, width=WIDE, color_system=None, highlight=False, markup=False, emoji=False).print(content)
    return "".join(f"{line.rstrip()}\n" for line in file.getvalue().splitlines())


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


class Steps:
    """Say which of several long steps begins, and how long the others will take about, each as long as those before."""

    def __init__(self, total: int) -> None:
        """Begin with none of `total` steps."""
        self._total, self._begun = total, 0
        self._started = time.monotonic()
        self._seconds: list[float] = []

    def begin(self, what: str) -> None:
        """Say which step begins."""
        self._begun, self._started = self._begun + 1, time.monotonic()
        left = ""
        if self._seconds:
            # not the mean: the first step may have trained what all share
            minutes = statistics.median(self._seconds) * (self._total - self._begun + 1) / 60
            left = f"; about {minutes:.0f} min left" if minutes >= 1 else "; less than a minute left"
        say(f"{self._begun}/{self._total}: {what}{left}")

    def end(self, *, counts: bool) -> None:
        """End a step; one that was finished before says nothing of the others."""
        if counts:
            self._seconds.append(time.monotonic() - self._started)


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
