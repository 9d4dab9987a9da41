"""Define the errors that a user may see, with their exit codes."""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from textwrap import fill


class DirePlugError(Exception):
    """The base of all errors that a user may see; the command line prints it and exits with `exit_code`.

    The message says what is wrong, where, and what to do.
    """

    exit_code = 2


class MissingError(DirePlugError):
    """Something must be fetched or installed first.

    Attributes:
        command: what does that, without `names`; those of several errors can be given to it at once.
        names: what it is to fetch.
    """

    def __init__(self, message: str, *, command: str, names: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.command, self.names = command, names


class RunBusyError(DirePlugError):
    """A live process holds this run or entry of the store; the exit code is BSD's for a failure that passes."""

    exit_code = 75


class LeaseLostError(RunBusyError):
    """Another process took over what this one worked on, since it didn't renew its lease for too long."""


class DivergedError(DirePlugError):
    """A training or a synthesis left the finite numbers: its settings don't fit."""


class UpstreamFailedError(DirePlugError):
    """Upstream's script ended with an error; the message carries its last lines."""

    exit_code = 1


class UnitsFailedError(DirePlugError):
    """Units of work weren't made; the message carries the ends of their logs."""

    exit_code = 1


class PluginError(DirePlugError):
    """A plugin raised, or answered a hook with something that cannot be used."""

    exit_code = 1


class DetachedError(Exception):
    """A command's jobs go on by themselves, so it has no result yet; the message says how to follow them.

    No `DirePlugError`: what goes on after an error of one run must not go on after this.
    """


NO_ROOM = ("failed to map segment from shared object", "DefaultCPUAllocator: ")
"""The loader's message on torch's libraries where `ulimit -v` is too small for them, and torch's on a tensor."""


def describe_lack(error: Exception) -> str | None:
    """Return what memory is lacking and how to need less, in one line; None where that isn't the error."""
    message = " ".join(str(error).split())
    if isinstance(error, MemoryError) or any(words in message for words in NO_ROOM):
        return f"not enough memory ({message or 'see ulimit -v'}); give more or ask for less"
    # by its name: torch may not have been imported
    if type(error).__name__ == "OutOfMemoryError":
        found = ". ".join(message.split(". ")[:2])
        return f"not enough GPU memory ({found}); lower the batch or the images that real terms hold: docs/gpu.md"
    return None


def wrap_names(what: str, names: Iterable[str]) -> str:
    """Return an indented list of names, for a line of a message, wrapped at 80 columns."""
    text = f"{what}: {', '.join(names)}"
    return fill(text, 80, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)


def count_of(number: int, what: str) -> str:
    """Return a number with its noun, as in `1 pass`, `3 batches`."""
    plural = "" if number == 1 else "es" if what.endswith(("s", "tch")) else "s"
    return f"{number:,} {what}{plural}"


def nearest(name: str, known: Iterable[str]) -> str:
    """Return " (did you mean 'x'?)" for the valid name nearest to `name`, or an empty string."""
    folded = {one.casefold(): one for one in known}
    close = get_close_matches(name.casefold(), folded, n=1, cutoff=0.5)
    return f" (did you mean '{folded[close[0]]}'?)" if close else ""


_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What would act on a terminal, or be no text for it; a stranger's file may hold it."""


def printable(text: str) -> str:
    """Escape control characters, and bytes that aren't UTF-8, which a file's name may have, as in `\\udcff`."""
    return _CONTROL.sub(lambda one: f"\\u{ord(one[0]):04x}", text)
