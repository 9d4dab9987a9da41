"""Compare methods under one protocol, and search settings of a term, from Python; `calls.py` says what keywords are."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal

from dire_plug.commands.options import split_names
from dire_plug.paper.tune import load_tuned, plan_study, store_tuned
from dire_plug.paper.tune import tune as run_study
from dire_plug.python.options import (
    Accelerate,
    Engine,
    Executor,
    PathLike,
    Settings,
    as_options,
    as_path,
    check_choice,
    check_least,
    make_request,
    make_runner,
    make_settings,
    runs_folder,
)
from dire_plug.python.study_results import MethodsResult, StudyResult
from dire_plug.recipe import METHOD_ARMS, SUBSET_ARMS
from dire_plug.results.methods import compare_methods as run_methods
from dire_plug.results.methods import plan_methods
from dire_plug.results.methods_table import load_methods as read_methods
from dire_plug.results.methods_table import store_methods
from dire_plug.results.stored import comparison_folder
from dire_plug.store.runs import runs_root


def compare_methods(
    methods: str | Sequence[str],
    *,
    arms: Sequence[str] = METHOD_ARMS,
    subsets: Sequence[str] = SUBSET_ARMS,
    protocol: str | None = None,
    labels: Literal["teacher", "none"] | None = None,
    with_own: bool = True,
    seeds: int = 1,
    recipe: PathLike = "quick",
    preset: str | None = None,
    ipc: int | None = None,
    settings: Settings = (),
    seed: int = 0,
    device: str = "auto",
    engine: Engine = "auto",
    accelerate: Accelerate = "none",
    out: PathLike | None = None,
    real: PathLike | None = None,
    data_root: PathLike | None = None,
    offline: bool = False,
    rerun: Sequence[str] = (),
    keep_labels: bool = False,
    wait: bool = True,
    executor: Executor | None = None,
    jobs: int | None = None,
    max_jobs: int | None = None,
    gpus_per_job: int | None = None,
    slurm: Sequence[str] = (),
    log: Sequence[str] = (),
) -> MethodsResult:
    """Train the same students in the same way on every method's images: `dire-plug compare-methods`.

    Args:
        methods: METHOD, METHOD/RECIPE or recipe files; `all` stands for the methods that have `recipe`.
        arms: of each method.
        subsets: arms of real images; none leaves them out.
        protocol: METHOD/RECIPE whose protocol trains all students; None: the first method's.
        labels: `teacher`: the protocol's labels all images; `none`: hard labels; None: as the protocol says.
        with_own: whether students are trained by each method's own protocol, too.
        seeds: syntheses of each arm, from `seed` on.

    The other arguments are those of `run`; `settings` of `evaluate` change the one protocol, the others all recipes.

    Raises:
        DirePlugError: as the command line's errors.
    """
    names = split_names(methods) if isinstance(methods, str) else list(map(str, methods))
    if labels is not None:
        check_choice("labels", labels, ("teacher", "none"))
    check_least(1, seeds=seeds)
    request = make_request(
        names[0] if names else "",
        "baseline",
        settings,
        recipe=recipe,
        preset=preset,
        ipc=ipc,
        seed=seed,
        device=device,
        engine=engine,
        accelerate=accelerate,
        real=real,
        out=out,
        data_root=data_root,
        offline=offline,
        rerun=rerun,
        keep_labels=keep_labels,
        wait=wait,
    )
    plan = plan_methods(
        request,
        names,
        arms=as_options(arms),
        subsets=as_options(subsets),
        seeds=seeds,
        protocol=protocol,
        labels=labels,
        with_own=with_own,
    )
    found = run_methods(plan, runner=make_runner(executor, jobs, max_jobs, gpus_per_job, slurm, log, rerun=rerun))
    return MethodsResult(store_methods(found, runs_root(request)), found)


def tune(
    method: str,
    *,
    arm: str = "dire",
    trials: int = 30,
    seeds: int = 3,
    search: Sequence[str] = (),
    parallel: int | None = None,
    write: PathLike | None = None,
    recipe: PathLike = "quick",
    preset: str | None = None,
    ipc: int | None = None,
    settings: Settings = (),
    seed: int = 0,
    device: str = "auto",
    engine: Engine = "auto",
    accelerate: Accelerate = "none",
    out: PathLike | None = None,
    real: PathLike | None = None,
    data_root: PathLike | None = None,
    offline: bool = False,
    rerun: Sequence[str] = (),
    keep_labels: bool = False,
    wait: bool = True,
    executor: Executor | None = None,
    jobs: int | None = None,
    max_jobs: int | None = None,
    gpus_per_job: int | None = None,
    slurm: Sequence[str] = (),
) -> StudyResult:
    """Search the weights of a term on validation images, and test the best: `dire-plug tune`.

    Args:
        arm: the arm whose term is tuned.
        trials: of the study in all; a greater number goes on with it.
        seeds: syntheses of each trial, from `seed` on; as many others test the best.
        search: `KEY=LOW..HIGH[:log]` or `KEY=VALUE,VALUE` instead of the default ranges.
        parallel: trials that are asked for at a time; None: as many as the executor runs.
        write: where the recipe with the best setting as a preset goes; None: the study's folder.

    The other arguments are those of `run`.

    Raises:
        DirePlugError: as the command line's errors.
    """
    check_least(1, trials=trials, seeds=seeds, parallel=parallel)
    request = make_request(
        method,
        arm,
        settings,
        recipe=recipe,
        preset=preset,
        ipc=ipc,
        seed=seed,
        device=device,
        engine=engine,
        accelerate=accelerate,
        real=real,
        out=out,
        data_root=data_root,
        offline=offline,
        rerun=rerun,
        keep_labels=keep_labels,
        wait=wait,
    )
    plan = plan_study(request, seeds=seeds, search=as_options(search))
    file = as_path(write)
    found = run_study(
        plan,
        trials=trials,
        parallel=parallel,
        execution=make_settings(executor, jobs, max_jobs, gpus_per_job, slurm, rerun=rerun),
        write=None if file is None else file.absolute(),
    )
    return StudyResult(found, store_tuned(found, runs_root(request)))


def load_methods(name: PathLike, *, out: PathLike | None = None) -> MethodsResult:
    """Return what `compare_methods` stored, by its folder's name or path.

    Args:
        out: the folder of run directories; None: runs/.

    Raises:
        DirePlugError: there is no such comparison, or a run of it is missing.
    """
    return MethodsResult(*read_methods(os.fspath(name), runs_folder(out)))


def load_study(name: PathLike, *, out: PathLike | None = None) -> StudyResult:
    """Return what `tune` stored when it had ended, by its folder's name or path.

    Args:
        out: the folder of run directories; None: runs/.

    Raises:
        DirePlugError: there is no such study, it hasn't ended, or a run of it is missing.
    """
    found = load_tuned(os.fspath(name), runs_folder(out))
    # beside those of the method: root/method/recipe/study
    return StudyResult(found, comparison_folder(found.tested, found.folder.parents[2]))
