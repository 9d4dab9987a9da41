"""Run the command line, `dire-plug COMMAND`, and turn errors into exit codes: only here."""

import sys
import traceback
from importlib import import_module
from typing import Any

import click

from dire_plug import __version__, ui
from dire_plug.errors import DetachedError, DirePlugError, describe_lack, nearest

GROUPS = {
    "Run a method": {
        "run": "dire_plug.commands.run:run",
        "compare": "dire_plug.commands.compare:compare",
        "compare-methods": "dire_plug.commands.compare_methods:compare_methods",
        "jobs": "dire_plug.commands.jobs:jobs",
        "vendor": "dire_plug.commands.upstream:vendor",
    },
    "Look at what is there": {
        "list": "dire_plug.commands.inspect:list_",
        "show": "dire_plug.commands.inspect:show",
        "report": "dire_plug.commands.report:report",
        "doctor": "dire_plug.commands.doctor:doctor",
        "clean": "dire_plug.commands.store:clean",
        "completion": "dire_plug.commands.completion:completion",
    },
    "The paper": {
        "reproduce": "dire_plug.commands.reproduce:reproduce",
        "ablate": "dire_plug.commands.ablate:ablate",
        "tune": "dire_plug.commands.tune:tune",
        "time": "dire_plug.commands.time:time_",
    },
    "Condensed sets from any source": {
        "measure": "dire_plug.commands.measure:measure",
        "evaluate": "dire_plug.commands.evaluate:evaluate",
        "rank": "dire_plug.commands.rank:rank",
        "export": "dire_plug.commands.store:export",
        "import": "dire_plug.commands.store:import_",
    },
    "Extend": {
        "new": "dire_plug.commands.scaffold:new",
        "patch": "dire_plug.commands.scaffold:patch",
        "verify": "dire_plug.commands.upstream:verify",
    },
}
"""Heading of the help → command → where it is defined."""
COMMANDS = {name: where for commands in GROUPS.values() for name, where in commands.items()}
SUMMARY = 66
"""The longest summary of a command, in characters: a line of the help has 80 columns."""
LEAST_WIDTH = 10
"""Of the names of commands; the summaries of a group with a longer name are further to the right."""
INTERRUPTED = 130


class Commands(click.Group):
    """A group that imports a command when it is used, so that `--help` answers at once."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """Take `help COMMAND` for `COMMAND --help`."""
        return super().parse_args(context, [*args[1:], "--help"] if args[:1] == ["help"] else args)

    def list_commands(self, context: click.Context) -> list[str]:
        """Return the names in the order in which a user needs them."""
        return list(COMMANDS)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands with their summaries, a heading for each group."""
        for heading, commands in GROUPS.items():
            with formatter.section(heading):
                width = max(LEAST_WIDTH, *map(len, commands))
                lines = [(name.ljust(width), self._summary(context, name)) for name in commands]
                formatter.write_dl(lines)

    def _summary(self, context: click.Context, name: str) -> str:
        command = self.get_command(context, name)
        return "" if command is None else command.get_short_help_str(limit=SUMMARY)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Import and return one command."""
        if name not in COMMANDS:
            from dire_plug import plugins

            method = plugins.find_method(name)
            is_method = method in plugins.known("methods")
            hint = f" (did you mean 'dire-plug run {method}'?)" if is_method else nearest(name, COMMANDS)
            context.fail(f"unknown command '{name}'{hint}")
        module, _, attribute = COMMANDS[name].partition(":")
        command = getattr(import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="dire-plug")
@click.option("-v", "--verbose", is_flag=True, help="Print more, and the traceback of an unexpected error.")
def group(verbose: bool) -> None:
    """Run the published code of dataset-condensation methods with a diversity regularizer in its loss.

    Start with:  dire-plug run sre2l --dire   and then   dire-plug compare sre2l
    """
    ui.configure(verbose=verbose)


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line; exit 0 on success, 1 on failure, 2 on bad input, 75 if busy, 130 when interrupted."""
    ui.prepare_streams()
    try:
        # standalone_mode would print errors and exit by click's own rules
        sys.exit(group.main(arguments, prog_name="dire-plug", standalone_mode=False) or 0)
    except (click.exceptions.Abort, KeyboardInterrupt):
        _end("interrupted; finished stages are kept, and the same command resumes", INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except DetachedError as notice:
        _end(str(notice), 0)
    except DirePlugError as error:
        _end(f"error: {error}", error.exit_code)
    # a full disk, or a folder that can't be read
    except OSError as error:
        _show_traceback()
        where, what = error.filename or type(error).__name__, error.strerror or str(error) or "no reason was given"
        _end(f"error: {where}: {what}; finished stages are kept", 2)
    except Exception as error:
        _show_traceback()
        if (lack := describe_lack(error)) is not None:
            _end(f"error: {lack}; finished stages are kept", 2)
        _end(_unexpected(error, sys.argv[1:] if arguments is None else arguments), 1)
    finally:
        # a process may go on, as a notebook or a test does
        ui.configure(verbose=False, json=False)


def _unexpected(error: Exception, arguments: list[str]) -> str:
    """Describe an error that is no `DirePlugError` in one line."""
    command = next((word for word in arguments if word in COMMANDS), "")
    message = " ".join(str(error).split())
    advice = "" if ui.is_verbose() else f"; for the traceback: dire-plug -v {command} …"
    return (
        f"error: {command or 'dire-plug'}: unexpected error ({type(error).__name__}: {message}); "
        f"finished stages are kept{advice}"
    )


def _show_traceback() -> None:
    if ui.is_verbose():
        traceback.print_exc()


def _end(message: str, code: int) -> None:
    ui.say(message)
    sys.exit(code)


if __name__ == "__main__":
    main()
