"""Define the options that commands share: those that make runs, and those that take a set from outside."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dire_plug import home, plugins, ui
from dire_plug.commands.completion import name_methods, offer_any_recipes, offer_methods, offer_presets, offer_recipes
from dire_plug.errors import DirePlugError
from dire_plug.recipe.loading import dataset_settings, split_setting
from dire_plug.store.runs import RERUN, Request, list_runs

if TYPE_CHECKING:
    from dire_plug.sets.opened import SetRequest


Function = TypeVar("Function", bound=Callable[..., Any])

SETTINGS = click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Change one value of the recipe: a.b=value."
)
DEVICE = click.option("--device", default="auto", show_default=True, help="cpu, cuda, cuda:1 …")
OUT = click.option(
    "--out", type=click.Path(path_type=Path), help="Folder for run directories; default: as `dire-plug doctor` shows."
)
DATA_ROOT = click.option(
    "--data-root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of the datasets; it must exist.",
)
OFFLINE = click.option("--offline", is_flag=True, help="Don't use the network.")


def _tell_ui(context: click.Context, parameter: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        ui.configure(**{str(parameter.name): True})


VERBOSE = click.option("-v", "--verbose", is_flag=True, expose_value=False, callback=_tell_ui, help="Print more.")
JSON = click.option(
    "--json",
    is_flag=True,
    expose_value=False,
    callback=_tell_ui,
    help="Print the result as JSON on standard output, and all else on standard error.",
)
KEEP_LABELS = click.option(
    "--keep-labels", is_flag=True, help="Keep stored labels after the last student; for ImageNet they are large."
)
WAIT = click.option(
    "--wait/--no-wait",
    default=True,
    show_default=True,
    help="Wait for a process that works on the same run or artefact, or exit with code 75.",
)
"""Options of several commands."""


ACCELERATE = click.option(
    "--accelerate",
    type=click.Choice(["none", "exact", "fast"]),
    default="none",
    show_default=True,
    help="exact: skip work that changes no bit; fast: bfloat16, compiled networks and more, which do.",
)
CARD = click.option(
    "--card",
    metavar="NAME",
    help="With --dry-run: the time that a GPU would take: h100, a100, v100, rtx-4090 …; default: this machine.",
)
DRY_RUN = click.option("--dry-run", is_flag=True, help="List the units of work that the store lacks; run nothing.")


def _find_method(context: click.Context, parameter: click.Parameter, value: str) -> str:
    """Return the method's name; an unknown one ends the command before anything heavy is imported."""
    plugins.load_adapter(value)
    return plugins.find_method(value)


METHOD = click.argument("method", shell_complete=offer_methods, callback=_find_method)
RUNS_FOLDER = click.option(
    "--runs",
    "runs_folder",
    type=click.Path(path_type=Path),
    help="Folder of run folders to look in; default: as `dire-plug doctor` shows.",
)
"""Of commands that read runs; those that make some have `--out`."""


ELSEWHERE = {
    "--lr": ("--set recover.flags.lr=NUMBER", "--set evaluate.lr=NUMBER"),
    "--epochs": ("--set evaluate.epochs=NUMBER",),
    "--gpu": ("--device cuda:0",),
}
"""An option that the methods' own scripts have → how a command says it."""


class MethodCommand(click.Command):
    """A command whose help names the installed methods, and which knows their scripts' habits."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse as click does; an option of the scripts is told by ours, where the command changes a recipe."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if error.option_name in ELSEWHERE and any(one.name == "settings" for one in self.params):
                ways = " or ".join(ELSEWHERE[error.option_name])
                raise click.UsageError(f"no option '{error.option_name}'; it is {ways}", ctx) from error
            raise

    def format_help_text(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the help, and below it the methods."""
        super().format_help_text(ctx, formatter)
        if names := name_methods():
            formatter.write_paragraph()
            with formatter.indentation():
                formatter.write_text(f"METHOD is one of: {names}.")


def table_files(function: Function) -> Function:
    """Add `--to FILE`, which also writes all tables that a command shows; the command itself isn't told."""

    def call(*arguments: Any, table_files: tuple[Path, ...], **options: Any) -> Any:
        from dire_plug.table_files import check_suffix, collect, write_tables

        for path in table_files:
            check_suffix(path)
        if not table_files:
            return function(*arguments, **options)
        with ui.collecting() as shown:
            answer = function(*arguments, **options)
        for path in table_files:
            write_tables(collect(*shown), path)
            ui.say(f"tables: {path}")
        return answer

    return click.option(
        "--to",
        "table_files",
        multiple=True,
        type=click.Path(dir_okay=False, path_type=Path),
        metavar="FILE",
        help="Also write the tables to FILE: .tex (booktabs), .csv or .md; may be repeated.",
    )(wraps(function)(call))  # type: ignore[return-value]


SEEDS = click.option(
    "--seeds", type=click.IntRange(min=1), default=1, show_default=True, help="Syntheses of each arm, paired."
)
LOG = click.option(
    "--log",
    multiple=True,
    metavar="NAME",
    help="Log finished runs: tensorboard, wandb, or a plugin's; may be repeated.",
)


def rerun_option(*stages: str) -> Callable[[Function], Function]:
    """Return `--rerun STAGE` with these stages."""
    return click.option(
        "--rerun",
        multiple=True,
        type=click.Choice(stages),
        metavar="STAGE",
        help=f"Make the artefacts of this stage again: {', '.join(stages)}; may be repeated.",
    )


RERUN_STAGES = rerun_option(*RERUN)

REAL = click.option(
    "--real",
    metavar="DATASET|FOLDER",
    help="The real images: a dataset, or a path such as ./photos, one folder a class; default: the recipe's.",
)
RUN_OPTIONS = (
    REAL,
    click.option(
        "--recipe",
        default="quick",
        show_default=True,
        shell_complete=offer_recipes,
        help="A recipe of the method, or a YAML file; `list recipes --method METHOD` names recipes, arms and presets.",
    ),
    click.option("--preset", shell_complete=offer_presets, help="A named set of settings of the recipe."),
    click.option("--ipc", type=click.IntRange(min=1), help="Images per class; default: the recipe's."),
    SETTINGS,
    click.option(
        "--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="Seed of the (first) synthesis."
    ),
    DEVICE,
    click.option(
        "--engine",
        type=click.Choice(["auto", "upstream", "native"]),
        default="auto",
        show_default=True,
        help="Upstream's own script, or our loop of the same mathematics.",
    ),
    ACCELERATE,
    OUT,
    DATA_ROOT,
    OFFLINE,
    RERUN_STAGES,
    KEEP_LABELS,
    WAIT,
    click.option("--dry-run", is_flag=True, help="Print the resolved recipe and the plan; run nothing."),
    CARD,
    JSON,
    VERBOSE,
)


def _adding(options: Sequence[Callable[[Any], Any]]) -> Callable[[Function], Function]:
    """Return a decorator that adds options to a command, in this order."""

    def add(function: Function) -> Function:
        # decorators apply from the last to the first
        for option in reversed(options):
            function = option(function)
        return function

    return add


run_options = _adding(RUN_OPTIONS)
"""Add the options of `RUN_OPTIONS` to a command."""


EXECUTOR_OPTIONS = (
    click.option(
        "--executor",
        type=click.Choice(["inline", "local", "slurm"]),
        show_default="the config file's, else inline",
        help="inline: one stage after another in this process; local: several processes; slurm: a cluster.",
    ),
    click.option(
        "--jobs",
        type=click.IntRange(min=1),
        show_default="one for each GPU, or 2",
        help="The number of processes of --executor local; they divide the cores unless OMP_NUM_THREADS is set.",
    ),
    click.option("--max-jobs", type=click.IntRange(min=1), help="Jobs of an array that SLURM runs at a time."),
    click.option("--gpus-per-job", type=click.IntRange(min=1), help="GPUs that one process or job sees; default: 1."),
    click.option(
        "--slurm",
        multiple=True,
        metavar="KEY=VALUE",
        help="An option of sbatch, such as partition=gpu; STAGE.KEY=VALUE for one stage's jobs.",
    ),
    click.option("--detach", is_flag=True, help="End when the jobs are submitted; the same command shows the result."),
    click.option(
        "--write-scripts",
        "scripts",
        type=click.Path(file_okay=False, path_type=Path),
        metavar="FOLDER",
        help="Write plain scripts for sbatch into FOLDER instead of submitting.",
    ),
)


def executor_options(function: Function) -> Function:
    """Add the options of `EXECUTOR_OPTIONS` to a command, which gets them as one argument, `execution`."""

    @wraps(function)
    def call(
        *arguments: Any,
        executor: str | None,
        jobs: int | None,
        max_jobs: int | None,
        gpus_per_job: int | None,
        slurm: tuple[str, ...],
        detach: bool,
        scripts: Path | None,
        **options: Any,
    ) -> Any:
        from dire_plug.executors.settings import read_settings

        execution = read_settings(
            executor,
            jobs=jobs,
            max_jobs=max_jobs,
            gpus_per_job=gpus_per_job,
            slurm=slurm,
            detach=detach,
            scripts=scripts,
            rerun=options.get("rerun", ()),
        )
        return function(*arguments, execution=execution, **options)

    return _adding(EXECUTOR_OPTIONS)(call)  # type: ignore[return-value]


def split_names(text: str) -> list[str]:
    """Return the names of a list that commas separate, each once, in the order given."""
    return list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def make_request(method: str, *, arm: str = "baseline", **options: Any) -> Request:
    """Return the request that the shared options describe; `method` is "" where several have it."""
    check_card(options.pop("card"), dry_run=options.pop("dry_run"))
    settings = add_real(tuple(options.pop("settings")), options.pop("real"), ipc=options["ipc"])
    if method:
        # here, where nothing heavy is imported yet
        plugins.find_recipe(plugins.load_adapter(method), options["recipe"])
    return Request(method=method, arm=arm, settings=settings, **options)


def repeat_options(request: Request, *, settings: Sequence[str], real: str | None) -> list[str]:
    """Return the words of a command line that describe a request again, without its arm; `settings` as with `--set`."""
    default = Request(request.method)
    words = [word for one in settings for word in ("--set", one)]
    for key in ("recipe", "preset", "ipc", "seed", "device", "engine", "accelerate", "data_root"):
        if (value := getattr(request, key)) != getattr(default, key):
            words += [f"--{key.replace('_', '-')}", str(value)]
    words += [] if real is None else ["--real", real]
    words += [] if request.out is None else ["--out", str(request.out)]
    return [*words, *(["--offline"] if request.offline else [])]


def where_runs_are(out: Path | None) -> str:
    """Return the option, after a blank, by which another command finds runs that were made with `--out`."""
    return "" if out is None else f" --runs {shlex.quote(str(out))}"


def add_real(settings: tuple[str, ...], real: str | None, *, ipc: int | None) -> tuple[str, ...]:
    """Return the settings with the dataset that `--real` names, and check that they don't contradict it or `--ipc`."""
    check_settings(settings, {"ipc": ("--ipc", ipc), "dataset.name": ("--real", real)})
    return settings if real is None else (*dataset_settings(real), *settings)


def check_card(card: str | None, *, dry_run: bool) -> None:
    """Raise for a GPU that is named where nothing is estimated."""
    if card is not None and not dry_run:
        raise DirePlugError(f"--card {card} is for the estimates of --dry-run; add that, or leave --card out")


def check_settings(settings: Sequence[str], given: Mapping[str, tuple[str, object]]) -> None:
    """Check that `--set` doesn't contradict an option for the same key.

    Args:
        given: dotted key of the recipe → the option, and its value; None where it isn't given.

    Raises:
        DirePlugError: both are given, and differ.
    """
    for text in settings:
        keys, value = split_setting(text)
        option, other = given.get(".".join(keys), ("", None))
        if other is not None and other != value:
            raise contradiction(f"{option} {_word(other)}", f"--set {text}")


def contradiction(one: str, other: str) -> DirePlugError:
    """Return the error for two options that contradict each other."""
    return DirePlugError(f"{one} and {other} contradict each other; leave one of them out")


def _word(value: object) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


# The options of `measure`, `evaluate` and `rank`: the set, and the recipe that judges it.


SET_OPTIONS = (
    REAL,
    click.option(
        "--recipe",
        metavar="METHOD/NAME",
        shell_complete=offer_any_recipes,
        help="The recipe for networks, protocol and real data; default: the run's, else SRe2L's for the dataset.",
    ),
    click.option("--ipc", type=click.IntRange(min=1), help="Take the first so many images of each class, by name."),
    click.option("--resize", is_flag=True, help="Resize images whose size differs from the real ones."),
    click.option(
        "--space",
        type=click.Choice(["pixels", "normalised", "zca"]),
        help="The space of a tensor file; pixels: clip values to [0, 1].",
    ),
    click.option(
        "--normalised-by",
        metavar="DATASET|NUMBERS",
        help="The normalisation of a tensor file: a dataset's statistics, or three means and three deviations.",
    ),
    click.option("--teacher", metavar="FILE", help="A checkpoint instead of the recipe's teacher."),
    SETTINGS,
    DEVICE,
    DATA_ROOT,
    OFFLINE,
    JSON,
    VERBOSE,
)


set_options = _adding(SET_OPTIONS)
"""Add the options of `SET_OPTIONS` to a command."""


def make_set_request(path: Path, **options: Any) -> SetRequest:
    """Return the request that the shared options describe."""
    from dire_plug.sets.opened import SetRequest

    if not path.exists() and len(path.parts) == 1:
        # the name of a run, as `show` takes it
        root = (options.get("out") or home.runs()).absolute()
        named = [run.path for run in list_runs(root) if run.path.name.startswith(path.name)]
        path = named[0] if len(named) == 1 else path
    settings = tuple(options.pop("settings"))
    check_settings(settings, {"squeeze.teacher.checkpoint": ("--teacher", options["teacher"])})
    return SetRequest(path, settings=settings, **options)


def describe_set(condensed: dict[str, Any]) -> str:
    """Return one line on a set: how many images of how many classes."""
    least, most = condensed["per_class"]["least"], condensed["per_class"]["most"]
    each = f"{least} each" if least == most else f"{least} to {most} each"
    return f"{condensed['name']}: {condensed['images']} images of {condensed['classes']} classes, {each}"
