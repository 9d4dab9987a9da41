"""Turn keywords into the command line's values, and check them as its options do."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from dire_plug import home, plugins
from dire_plug.commands.options import add_real
from dire_plug.errors import DirePlugError, nearest
from dire_plug.executors.dispatch import Runner
from dire_plug.executors.settings import ExecutorSettings, read_settings
from dire_plug.pipeline import Request
from dire_plug.store.runs import RERUN

PathLike = str | os.PathLike[str]
Settings = Mapping[str, object] | Sequence[str]
"""Changes of a recipe: {"recover.plan.per_class": 5}, or ["recover.plan.per_class=5"]."""
Engine = Literal["auto", "upstream", "native"]
Accelerate = Literal["none", "exact", "fast"]
Executor = Literal["inline", "local", "slurm"]
SpaceKind = Literal["pixels", "normalised", "zca"]


def make_request(
    method: str,
    arm: str,
    settings: Settings,
    *,
    recipe: PathLike,
    real: PathLike | None,
    out: PathLike | None,
    data_root: PathLike | None,
    rerun: Sequence[str],
    **options: Any,
) -> Request:
    """Return the request that the keywords describe, as they are given to `run` and the others.

    Raises:
        DirePlugError: a value that the command line wouldn't take, or `real` contradicts the settings.
    """
    # the command line's own checks of these values are click's
    check_choice("engine", options["engine"], get_args(Engine))
    check_choice("accelerate", options["accelerate"], get_args(Accelerate))
    stages = as_options(rerun)
    for stage in stages:
        check_choice("rerun", stage, RERUN)
    check_least(0, seed=options["seed"])
    check_least(1, ipc=options["ipc"])
    changes = add_real(as_options(settings), None if real is None else os.fspath(real), ipc=options["ipc"])
    return Request(
        method=plugins.find_method(method),
        arm=arm,
        settings=changes,
        recipe=os.fspath(recipe),
        out=as_path(out),
        data_root=as_folder(data_root),
        rerun=stages,
        **options,
    )


def check_set(space: str | None, **counts: int | None) -> None:
    """Raise for a space that there isn't, or a count below 1."""
    if space is not None:
        check_choice("space", space, get_args(SpaceKind))
    check_least(1, **counts)


def check_choice(name: str, given: str, known: Iterable[str]) -> None:
    """Raise for a value that isn't known, with the nearest one."""
    if given not in (names := tuple(known)):
        raise DirePlugError(f"{name}: no '{given}'{nearest(given, names)}; one of {', '.join(names)}")


def check_least(least: int, **given: int | None) -> None:
    """Raise for a number below `least`; None is one that isn't given."""
    for name, value in given.items():
        # bool is an int in Python
        if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
            raise DirePlugError(f"{name}: must be a whole number, is {value!r}")
        if value is not None and value < least:
            raise DirePlugError(f"{name}: must be {least} at least, is {value}")


def make_runner(
    executor: str | None,
    jobs: int | None,
    max_jobs: int | None,
    gpus_per_job: int | None,
    slurm: Sequence[str],
    log: Sequence[str] = (),
    *,
    rerun: Sequence[str],
) -> Runner:
    """Return what runs units of work as the keywords say."""
    settings = make_settings(executor, jobs, max_jobs, gpus_per_job, slurm, rerun=rerun)
    return Runner(settings, log=as_options(log))


def make_settings(
    executor: str | None,
    jobs: int | None,
    max_jobs: int | None,
    gpus_per_job: int | None,
    slurm: Sequence[str],
    *,
    rerun: Sequence[str],
) -> ExecutorSettings:
    """Return the executor's settings; what isn't given is the config file's.

    Raises:
        DirePlugError: see `read_settings`.
    """
    options = as_options(slurm)
    return read_settings(executor, jobs=jobs, max_jobs=max_jobs, gpus_per_job=gpus_per_job, slurm=options, rerun=rerun)


def as_options(given: Mapping[str, object] | Iterable[str]) -> tuple[str, ...]:
    """Return KEY=VALUE texts, with values as YAML writes them in one line."""
    if not isinstance(given, Mapping):
        return (given,) if isinstance(given, str) else tuple(given)
    return tuple(f"{key}={as_yaml(value)}" for key, value in given.items())


def as_yaml(value: object) -> str:
    """Return a value as YAML writes it in one line; text as it is."""
    if isinstance(value, str | os.PathLike):
        return os.fspath(value)
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10**6)
    return text.removesuffix("...\n").strip()


def as_path(path: PathLike | None) -> Path | None:
    """Return a path, where one is given."""
    return None if path is None else Path(path)


def as_folder(path: PathLike | None) -> Path | None:
    """Return the folder of the datasets, where one is given.

    Raises:
        DirePlugError: it doesn't exist.
    """
    if path is not None and not Path(path).is_dir():
        raise DirePlugError(f"data_root {path}: no such folder")
    return as_path(path)


def runs_folder(out: PathLike | None) -> Path:
    """Return the folder of run directories."""
    return (as_path(out) or home.runs()).absolute()
