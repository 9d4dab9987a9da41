"""The command line: `dire-plug COMMAND`. Errors become exit codes here, and nowhere else."""

import sys
import traceback
from importlib import import_module
from typing import Any

import click

from dire_plug import __version__, ui
from dire_plug.errors import DirePlugError, nearest

COMMANDS = {
    "run": "dire_plug.commands.run:run",
    "compare": "dire_plug.commands.compare:compare",
    "report": "dire_plug.commands.report:report",
    "ablate": "dire_plug.commands.ablate:ablate",
    "rank": "dire_plug.commands.rank:rank",
    "time": "dire_plug.commands.time:time_",
    "measure": "dire_plug.commands.measure:measure",
    "evaluate": "dire_plug.commands.evaluate:evaluate",
    "reproduce": "dire_plug.commands.reproduce:reproduce",
    "vendor": "dire_plug.commands.upstream:vendor",
    "verify": "dire_plug.commands.upstream:verify",
    "new": "dire_plug.commands.new:new",
    "patch": "dire_plug.commands.patch:patch",
    "list": "dire_plug.commands.inspect:list_",
    "show": "dire_plug.commands.inspect:show",
    "clean": "dire_plug.commands.store:clean",
    "export": "dire_plug.commands.store:export",
    "import": "dire_plug.commands.store:import_",
    "doctor": "dire_plug.commands.doctor:doctor",
}
INTERRUPTED = 130
NO_ROOM = "failed to map segment from shared object"
"""What the loader says of torch's libraries where `ulimit -v` is too small for them."""


class Commands(click.Group):
    """Imports a command when it is asked for, so that `--help` answers at once."""

    def list_commands(self, context: click.Context) -> list[str]:
        """Return the names in the order of a user's way."""
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Import and return one command."""
        if name not in COMMANDS:
            context.fail(f"unknown command '{name}'{nearest(name, COMMANDS)}")
        module, _, attribute = COMMANDS[name].partition(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="dire-plug")
@click.option("-v", "--verbose", is_flag=True, help="Say more, and show the traceback of what wasn't foreseen.")
def group(verbose: bool) -> None:
    """Run the published code of dataset-condensation methods with a diversity regularizer in its loss.

    Start with:  dire-plug run sre2l --dire   and then   dire-plug compare sre2l
    """
    ui.configure(verbose=verbose)


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line; exit 0 when all went well, 2 on bad input, 1 on a failure inside, 130 when interrupted."""
    ui.configure(verbose=False)
    try:
        sys.exit(group.main(arguments, prog_name="dire-plug", standalone_mode=False) or 0)
    except click.exceptions.Abort:
        _end("interrupted; what is finished is kept, and the same command goes on from there", INTERRUPTED)
    except KeyboardInterrupt:
        _end("interrupted; what is finished is kept, and the same command goes on from there", INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except DirePlugError as error:
        _end(f"error: {error}", error.exit_code)
    except OSError as error:
        _show_traceback()
        where, what = error.filename or type(error).__name__, error.strerror or str(error) or "no reason was given"
        _end(f"error: {where}: {what}; what is finished is kept", 2)
    except Exception as error:
        _show_traceback()
        if isinstance(error, MemoryError) or NO_ROOM in str(error):
            _end(f"error: not enough memory ({str(error) or 'see ulimit -v'}); give more or ask for less", 2)
        _end(_unforeseen(error, sys.argv[1:] if arguments is None else arguments), 1)


def _unforeseen(error: Exception, arguments: list[str]) -> str:
    """Return one line on an error that is no `DirePlugError`, such as torch's of a device out of memory."""
    command = next((word for word in arguments if word in COMMANDS), "")
    message = " ".join(str(error).split())
    advice = "" if ui.is_verbose() else f"; for the traceback: dire-plug -v {command} …"
    return (
        f"error: {command or 'dire-plug'}: something failed that wasn't foreseen ({type(error).__name__}: {message}); "
        f"what is finished is kept{advice}"
    )


def _show_traceback() -> None:
    if ui.is_verbose():
        traceback.print_exc()


def _end(message: str, code: int) -> None:
    ui.say(message)
    sys.exit(code)


if __name__ == "__main__":
    main()
