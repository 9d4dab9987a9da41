"""Run, compare, measure and evaluate from Python, with the command line's options as keywords.

A keyword has the name and the default of its option: `--data-root` is `data_root`, `--set a.b=1` is
`settings={"a.b": 1}`. What is finished is reused, as it is by the command line, and lies in the same folders. Errors
are `DirePlugError`; their messages name the command line's options.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dire_plug.commands.options import check_settings, split_names
from dire_plug.commands.run import choose_arm
from dire_plug.errors import DirePlugError
from dire_plug.python.options import (
    Accelerate,
    Engine,
    Executor,
    PathLike,
    Settings,
    SpaceKind,
    as_folder,
    as_options,
    as_path,
    as_yaml,
    check_least,
    check_set,
    make_request,
    make_runner,
    runs_folder,
)
from dire_plug.python.results import ComparisonResult, RunResult, SetResult
from dire_plug.recipe import DEFAULT_ARMS
from dire_plug.results.arms import compare as run_comparison
from dire_plug.results.arms import with_ladder
from dire_plug.results.report.runs import find_runs
from dire_plug.results.stored import load_comparison as read_comparison
from dire_plug.results.stored import store_comparison
from dire_plug.sets.evaluate import evaluate_set
from dire_plug.sets.measure import OWN, measure_set
from dire_plug.sets.opened import SetRequest
from dire_plug.sets.units import plan_set_units
from dire_plug.store.runs import runs_root


def run(
    method: str,
    *,
    dire: bool = False,
    arm: str | None = None,
    regularizers: Mapping[str, object] | Sequence[str] = (),
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
) -> RunResult:
    """Synthesize with a method, train students on the images, measure their diversity: `dire-plug run`.

    Args:
        method: sre2l, cda, dwa, infer, delt, g-vbsm, edc, cv-dd, sre2l-pp, fadrm, lpld, mtt, dm, or a plugin's.
        dire: with the diversity regularizer: the same as `arm="dire"`.
        arm: baseline (the default), control, dire, the recipe's own; random, rded, herding, k-center, k-means, full.
        regularizers: terms instead of DiRe in its arm: names, or name → weight (a number, or "auto").
        recipe: a recipe of the method, or a YAML file.
        preset: a named set of settings of the recipe.
        ipc: images per class; None: the recipe's.
        settings: changes of the recipe, key → value.
        seed: of the synthesis.
        device: auto, cpu, cuda, cuda:1, …
        engine: upstream's own script, or our loop of the same mathematics.
        accelerate: see `--accelerate`.
        out: the folder of run directories; None: runs/.
        real: the real images: a dataset's name, or a path such as ./photos, one folder a class; None: the recipe's.
        data_root: the folder of the datasets; it must exist.
        offline: whether the network mustn't be used.
        rerun: stages whose artefacts are made again.
        keep_labels: whether stored labels are kept after the last student.
        wait: whether to wait for a process that works on the same run.
        executor, jobs, max_jobs, gpus_per_job, slurm: see docs/executors.md.
        log: where the finished run is logged: tensorboard, wandb, or a plugin's name.

    Raises:
        DirePlugError: as the command line's errors.
    """
    weights = regularizers.items() if isinstance(regularizers, Mapping) else ()
    terms = [f"{name}={as_yaml(weight)}" for name, weight in weights] or as_options(regularizers)
    chosen, changes = choose_arm(terms, arm, dire=dire, settings=as_options(settings))
    request = make_request(
        method,
        chosen,
        changes,
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
    runner = make_runner(executor, jobs, max_jobs, gpus_per_job, slurm, log, rerun=rerun)
    runner.prepare([request])
    return RunResult.of(runner.run(request))


def compare(
    method: str,
    *,
    arms: Sequence[str] = DEFAULT_ARMS,
    ladder: bool = False,
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
) -> ComparisonResult:
    """Compare accuracy and diversity of arms, paired by seed: `dire-plug compare`.

    Args:
        arms: in the order of the table; of real images also rded, herding, k-center, k-means and full.
        ladder: whether the arms between baseline and control are added, one change after another.
        seeds: syntheses of each arm, from `seed` on.

    The other arguments are those of `run`.

    Raises:
        DirePlugError: as the command line's errors.
    """
    check_least(1, seeds=seeds)
    if not (names := split_names(arms) if isinstance(arms, str) else list(dict.fromkeys(arms))):
        raise DirePlugError("compare: name at least one arm")
    request = make_request(
        method,
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
    if ladder:
        names = with_ladder(request, names)
    runner = make_runner(executor, jobs, max_jobs, gpus_per_job, slurm, log, rerun=rerun)
    comparison = run_comparison(request, arms=names, seeds=seeds, ladder=ladder, runner=runner)
    return ComparisonResult(store_comparison(comparison, runs_root(request)), comparison)


def load_run(name: PathLike, *, out: PathLike | None = None) -> RunResult:
    """Return a finished run by its folder, or by an unambiguous part of its name.

    Args:
        out: the folder of run directories; None: runs/.

    Raises:
        DirePlugError: none or several match, or the run isn't finished.
    """
    found = find_runs([os.fspath(name)], runs_folder(out))
    if len(found) != 1:
        raise DirePlugError(f"{name}: names {len(found)} runs; a comparison is loaded by load_comparison")
    return RunResult(found[0])


def load_comparison(name: PathLike, *, out: PathLike | None = None) -> ComparisonResult:
    """Return what `compare` stored, by its folder's name or path.

    Args:
        out: the folder of run directories; None: runs/.

    Raises:
        DirePlugError: there is no such comparison, or a run of it is missing.
    """
    return ComparisonResult(*read_comparison(os.fspath(name), runs_folder(out)))


def measure(
    path: PathLike,
    *,
    embeddings: Sequence[str] = OWN,
    weights: PathLike | None = None,
    nearest_k: int | None = None,
    real: PathLike | None = None,
    recipe: PathLike | None = None,
    ipc: int | None = None,
    resize: bool = False,
    space: SpaceKind | None = None,
    normalised_by: str | None = None,
    teacher: PathLike | None = None,
    settings: Settings = (),
    device: str = "auto",
    data_root: PathLike | None = None,
    offline: bool = False,
) -> SetResult:
    """Measure the diversity of a condensed set from any source: `dire-plug measure`.

    Args:
        path: a tree of class folders, a file of tensors, or the folder of a finished run.
        embeddings: teacher, independent, clip, torchvision:MODEL.
        weights: a file of weights for clip or torchvision:MODEL.
        nearest_k: k of the neighbourhoods; None: the recipe's.
        real: as in `run`; None: that of the recipe, or of the run.
        recipe: METHOD/NAME, or a YAML file; None: the run's, else SRe2L's for the dataset.
        ipc: take the first so many images of each class.
        resize: whether images whose size differs from the real ones are resized.
        space, normalised_by: of a tensor file; see docs/measuring-a-set.md.
        teacher: a checkpoint instead of the recipe's teacher.
        settings, device, data_root, offline: as in `run`.

    Raises:
        DirePlugError: as the command line's errors.
    """
    changes = as_options(settings)
    check_settings(changes, {"measure.nearest_k": ("--nearest-k", nearest_k)})
    check_set(space, ipc=ipc, nearest_k=nearest_k)
    request = SetRequest(
        Path(path),
        real=None if real is None else os.fspath(real),
        recipe=None if recipe is None else str(recipe),
        settings=changes,
        ipc=ipc,
        resize=resize,
        space=space,
        normalised_by=normalised_by,
        teacher=None if teacher is None else str(teacher),
        device=device,
        data_root=as_folder(data_root),
        offline=offline,
    )
    found = measure_set(request, embeddings=as_options(embeddings), weights=as_path(weights), nearest_k=nearest_k)
    return SetResult(found, request.path)


def evaluate(
    path: PathLike,
    *,
    students: Sequence[str] = (),
    per_set: int | None = None,
    epochs: int | None = None,
    seed: int | None = None,
    out: PathLike | None = None,
    rerun: Sequence[str] = (),
    keep_labels: bool = False,
    wait: bool = True,
    real: PathLike | None = None,
    recipe: PathLike | None = None,
    ipc: int | None = None,
    resize: bool = False,
    space: SpaceKind | None = None,
    normalised_by: str | None = None,
    teacher: PathLike | None = None,
    settings: Settings = (),
    device: str = "auto",
    data_root: PathLike | None = None,
    offline: bool = False,
    executor: Executor | None = None,
    jobs: int | None = None,
    max_jobs: int | None = None,
    gpus_per_job: int | None = None,
    slurm: Sequence[str] = (),
) -> SetResult:
    """Train students on a condensed set from any source, and test them on real images: `dire-plug evaluate`.

    Args:
        students: architectures; none: the recipe's.
        per_set: students of each; None: the recipe's number.
        epochs: of each; None: the recipe's.
        seed: of the students; None: the run's, or 0.

    The other arguments are those of `measure` and `run`.

    Raises:
        DirePlugError: as the command line's errors.
    """
    changes = as_options(settings)
    names = as_options(students)
    given = {"students": ("--student", list(names) or None), "per_synthesis": ("--per-set", per_set)}
    given |= {"epochs": ("--epochs", epochs)}
    check_settings(changes, {f"evaluate.{key}": value for key, value in given.items()})
    check_set(space, ipc=ipc, per_set=per_set, epochs=epochs)
    check_least(0, seed=seed)
    request = SetRequest(
        Path(path),
        real=None if real is None else os.fspath(real),
        recipe=None if recipe is None else str(recipe),
        settings=changes,
        ipc=ipc,
        resize=resize,
        space=space,
        normalised_by=normalised_by,
        teacher=None if teacher is None else str(teacher),
        seed=seed,
        device=device,
        out=as_path(out),
        data_root=as_folder(data_root),
        offline=offline,
        rerun=as_options(rerun),
        keep_labels=keep_labels,
        wait=wait,
    )
    chosen: dict[str, Any] = {"students": names, "per_set": per_set, "epochs": epochs}
    runner = make_runner(executor, jobs, max_jobs, gpus_per_job, slurm, rerun=rerun)
    runner.make(lambda: plan_set_units("evaluate", request, **chosen))
    return SetResult(evaluate_set(request, **chosen), request.path)
