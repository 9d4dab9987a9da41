"""Search the settings of an arm's term on validation images, write the best as a preset, and test it once.

Every trial is the arm with other settings of its term: its syntheses start from the same seeds, are judged on the same
validation images, and have one control. After the first student of its first synthesis a trial may be pruned. The best
is tested as `ablate` tests its own: with new seeds, on the test set, with networks of the same smaller training set.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dire_plug import ui
from dire_plug.data import default_count
from dire_plug.errors import DirePlugError, RunBusyError, count_of
from dire_plug.executors.dispatch import Runner
from dire_plug.executors.local import count_processes
from dire_plug.executors.settings import ExecutorSettings
from dire_plug.files import digest
from dire_plug.measures import ACCURACY
from dire_plug.paper.ablate.sweep import count_validation, hold_out_images, with_settings
from dire_plug.paper.ablate.trials import Setting, Trial, last_line
from dire_plug.paper.tune.space import Searched, Value, as_settings, make_space, own_values, short_names
from dire_plug.paper.tune.study import Claimed, Study, Tried, read_study, require_optuna
from dire_plug.pipeline import plan_run, with_data
from dire_plug.pipeline.request import with_stand_in
from dire_plug.pipeline.run import name_artefacts
from dire_plug.plugins import read_once
from dire_plug.recipe import AS_PRINTED, read_yaml
from dire_plug.recipe.loading import is_recipe_file, mapping, merge, settings_tree, split_setting
from dire_plug.results.arms import compare
from dire_plug.results.comparison import Comparison
from dire_plug.scaffold.recipe_file import write_preset
from dire_plug.store.lease import until_kept
from dire_plug.store.runs import FinishedRun, Request, Run, runs_root

CONTROL, TUNED, OWN = "control", "tuned", "the recipe's own"
SLURM_TRIALS = 4
"""Trials at a time where SLURM runs them and nobody says how many."""
ROW = 3
"""So many failed trials in a row end the command."""
LAST = ACCURACY[0]


@dataclass(frozen=True)
class Studied:
    """What a study searches, and what its trials are.

    Attributes:
        space: what is searched; `left_out`: "key: why" of what isn't.
        own_values: the recipe's own setting as a trial; None where it lies outside.
        validation: how many images judge.
        seeds: of a trial's syntheses.
        students: of each architecture for one synthesis.
    """

    method: str
    recipe: str
    arm: str
    ipc: int
    engine: str
    space: list[Searched]
    left_out: list[str]
    own_values: dict[str, Value] | None
    validation: int
    seeds: tuple[int, ...]
    students: int

    @property
    def prunes(self) -> bool:
        """Whether a trial has more to run than its first student."""
        return len(self.seeds) > 1 or self.students > 1


@dataclass(frozen=True)
class StudyPlan(Studied):
    """A study with the requests of its runs.

    Attributes:
        held_out: the request of the arm with validation images held out, judged on test images.
        judged: the same, judged on the validation images.
        own: the plan of `judged`.
    """

    held_out: Request
    judged: Request
    own: Run

    def setting(self, number: int, values: Mapping[str, Value]) -> Setting:
        """Return a trial as a setting of the arm."""
        shown = ", ".join(f"{name} {values[key]}" for key, name in short_names(self.space).items())
        return Setting(f"trial {number} ({shown})", arm=self.judged.arm, changes=as_settings(values))

    def first(self, setting: Setting) -> Request:
        """Return the request for the first student of a setting's first synthesis."""
        found = setting.of(self.judged, seed=self.seeds[0])
        # the run of a single student is the whole one
        return with_settings(found, "evaluate.per_synthesis=1") if self.students > 1 else found

    def whole(self, setting: Setting) -> list[Request]:
        """Return the requests of all runs of a setting."""
        return [setting.of(self.judged, seed=seed) for seed in self.seeds]

    def folder(self) -> Path:
        """Return the study's folder: beside the runs, named by what decides its trials.

        Raises:
            DirePlugError: the data aren't there.
        """
        # the names of artefacts stand for recipe, data, networks, code and engine
        names = sorted(one.name for one in name_artefacts(with_data(self.own)).values())
        found = digest([names, list(map(str, self.space)), list(self.seeds)])[:8]
        return runs_root(self.judged) / self.judged.method / self.own.recipe.name / f"tune-{found}"


@read_once()
def plan_study(request: Request, *, seeds: int, search: Sequence[str] = (), dry: bool = False) -> StudyPlan:
    """Check a request, and return what its study would search.

    Args:
        request: of the arm whose term is searched.
        seeds: syntheses of each trial.
        search: see `make_space`.
        dry: nothing will be run, so upstream's code isn't needed.

    Raises:
        DirePlugError: the arm has no term, it asks for the test set, or see `make_space`.
    """
    for text in request.settings:
        if split_setting(text) == (("evaluate", "judge"), "test"):
            raise DirePlugError(
                f"--set {text}: settings are chosen on validation images, never on the test set; leave it out"
            )
    planned = plan_run(request, dry=dry)
    if not planned.resolved.regularizers:
        raise DirePlugError(
            f"arm '{request.arm}' of recipe '{request.recipe}' has no regularizer, so there is nothing to search; name "
            "an arm with one: --arm dire, or a regularizer's name"
        )
    validation = _count_validation(planned, dry=dry)
    # `auto` may choose another engine while trials run
    held_out, judged = hold_out_images(replace(request, engine=planned.engine), validation)
    own = plan_run(judged, dry=dry)
    space, left_out = make_space(request, search, own)
    numbers = tuple(range(request.seed, request.seed + seeds))
    return StudyPlan(
        method=judged.method,
        recipe=own.recipe.name,
        arm=judged.arm,
        ipc=own.recipe.ipc,
        engine=own.engine_shown,
        space=space,
        left_out=left_out,
        own_values=own_values(space, own),
        validation=validation,
        seeds=numbers,
        students=own.recipe.evaluate.per_synthesis,
        held_out=held_out,
        judged=judged,
        own=own,
    )


def _count_validation(planned: Run, *, dry: bool) -> int:
    """Return how many images are held out; a plan without data counts those of a dataset of the published size."""
    try:
        return count_validation(planned)
    except DirePlugError:
        if not dry:
            raise
        return default_count(with_stand_in(planned).dataset)


@dataclass(frozen=True)
class Tuned:
    """A finished study and the test of its best trial.

    Attributes:
        plan: what was searched.
        folder: of the study.
        control: on the validation images.
        trials: by number.
        own: the number of the trial that is the recipe's own setting; None where there is none.
        file, preset: the recipe that was written, and the name of the preset in it.
        tested: control and the arm with the preset on the test set, with other seeds than the trials'.
        own_tested: the recipe's own setting on the test set; None where it is the best, or failed as a trial.
    """

    plan: Studied
    folder: Path
    control: Trial
    trials: list[Tried]
    best: Tried
    own: int | None
    file: Path
    preset: str
    tested: Comparison
    own_tested: list[FinishedRun] | None


def tune(
    plan: StudyPlan,
    *,
    trials: int,
    parallel: int | None = None,
    execution: ExecutorSettings | None = None,
    write: Path | None = None,
) -> Tuned:
    """Run a study to its end, write the best setting as a preset, and test it; what is finished isn't run again.

    Args:
        trials: how many the study has in all, whichever process ran them.
        parallel: how many are asked for at a time; None: as many as the executor has processes.
        execution: how they are run; None does so in this process.
        write: the file of the recipe with the preset; None: in the study's folder.

    Raises:
        DetachedError: jobs work for the trials, and the command doesn't wait for them.
        DirePlugError: the control failed, every trial did, or the file isn't a recipe's, or not this study's.
        RunBusyError: another process works on a trial, and the request doesn't wait.
    """
    require_optuna()
    folder, execution = plan.folder(), execution or ExecutorSettings()
    file = write or folder / f"{plan.own.recipe.name}-tuned.yaml"
    check_file(file, folder.name)
    control = _run_control(plan, execution)
    found = run_trials(plan, folder, trials=trials, parallel=parallel or _at_a_time(execution), execution=execution)
    best = choose(found)
    ui.say(f"best on validation images: {plan.setting(best.number, best.values).name}; now the test")
    preset = _write(plan, file, folder.name, best, found, control)
    later = plan.seeds[-1] + 1
    # `--set` of terms went into the preset, which they would win over
    settings = [text for text in plan.held_out.settings if split_setting(text)[0][0] != "regularizers"]
    request = replace(plan.held_out, recipe=str(file), preset=preset, settings=tuple(settings), seed=later)
    runner = Runner(execution)
    tested = compare(request, arms=(CONTROL, request.arm), seeds=len(plan.seeds), runner=runner)
    own = next((one for one in found if one.values == plan.own_values), None)
    own_tested = None
    if own is None or own not in (best, *(one for one in found if one.state == "failed")):
        requests = [replace(plan.held_out, seed=later + index) for index in range(len(plan.seeds))]
        runner.prepare(requests)
        own_tested = [runner.run(one) for one in requests]
    number = None if own is None else own.number
    return Tuned(plan, folder, control, found, best, number, file, preset, tested, own_tested)


def _at_a_time(execution: ExecutorSettings) -> int:
    if execution.kind == "inline":
        return 1
    if execution.kind == "slurm":
        return execution.max_jobs or SLURM_TRIALS
    return count_processes(execution)


def _run_control(plan: StudyPlan, execution: ExecutorSettings) -> Trial:
    """Run the control on the validation images; what is wrong with data, disk or code shows here, before any trial."""
    setting, runner = Setting(CONTROL, arm=CONTROL), Runner(execution)
    runner.prepare(plan.whole(setting))
    found = Trial(setting, tuple(runner.run(one) for one in plan.whole(setting)))
    if found.accuracy is None:
        raise DirePlugError(f"recipe '{plan.judged.recipe}': its protocol gives no accuracy to choose by")
    ui.say(f"control: {found.accuracy:.1f} % on {plan.validation} validation images")
    return found


@until_kept
def run_trials(
    plan: StudyPlan, folder: Path, *, trials: int, parallel: int, execution: ExecutorSettings
) -> list[Tried]:
    """Run what a study lacks of its trials, beside other processes that do; return all of them."""
    study = Study(folder, plan.space, seed=plan.seeds[0], own=plan.own_values)
    while True:
        with contextlib.ExitStack() as held:
            claimed = study.claim(parallel, total=trials, held=held)
            if claimed:
                _run_batch(plan, claimed, execution, total=trials)
                _check_failures(study.trials())
        if not claimed and not study.wait_for_others(wait=plan.judged.wait):
            return study.trials()


def _check_failures(trials: Sequence[Tried]) -> None:
    """Raise where the last trials that ended all failed: then it isn't their settings."""
    last = [one for one in trials if one.state in ("complete", "pruned", "failed")][-ROW:]
    if len(last) == ROW and all(one.state == "failed" for one in last):
        raise DirePlugError(
            f"{ROW} trials in a row failed, the last of them: {last[-1].why}; a narrower --search begins another study"
        )


def _run_batch(plan: StudyPlan, claimed: Sequence[Claimed], execution: ExecutorSettings, *, total: int) -> None:
    """Run some trials: the first student of each, then what isn't pruned; one that fails is told and kept."""
    runner = Runner(execution)
    running = {one: plan.setting(one.number, one.values) for one in claimed}
    if plan.prunes:
        runner.prepare((plan.first(setting) for setting in running.values()), skip_bad=True)
        for trial, setting in list(running.items()):
            ui.say(f"{trial.number + 1}/{total}: {setting.name}: first student")
            with _failing(trial, setting, running):
                run = runner.run(plan.first(setting))
                accuracy = _accuracy(run)
                if trial.report(accuracy):
                    trial.prune([run.folder.path.name])
                    running.pop(trial)
                    ui.say(f"{setting.name}: {accuracy:.1f} %: pruned")
    runner.prepare((one for setting in running.values() for one in plan.whole(setting)), skip_bad=True)
    for trial, setting in list(running.items()):
        ui.say(f"{trial.number + 1}/{total}: {setting.name}")
        with _failing(trial, setting, running):
            runs = [runner.run(one) for one in plan.whole(setting)]
            accuracies = [_accuracy(run) for run in runs]
            trial.complete(accuracies, [run.folder.path.name for run in runs])
            ui.say(f"{setting.name}: {sum(accuracies) / len(accuracies):.1f} %")


@contextlib.contextmanager
def _failing(trial: Claimed, setting: Setting, running: dict[Claimed, Setting]) -> Iterator[None]:
    """End a trial whose run fails with the reason; what another process holds, or took over, isn't its fault."""
    try:
        yield
    except RunBusyError:
        raise
    except DirePlugError as error:
        ui.warn(f"{setting.name} failed: {error}")
        trial.fail(last_line(error))
        running.pop(trial, None)


def _accuracy(run: FinishedRun) -> float:
    found = LAST.read(run.metrics)
    assert found is not None, "the control has shown that the protocol gives one"
    return found


def choose(trials: Sequence[Tried]) -> Tried:
    """Return the trial with the highest mean accuracy, the earlier one of equals.

    Raises:
        DirePlugError: none is complete.
    """
    known = [(one.accuracy, -one.number, one) for one in trials if one.accuracy is not None]
    if not known:
        why = next((one.why for one in trials if one.why), "none is complete")
        raise DirePlugError(f"no trial has an accuracy to choose by: {why}")
    return max(known, key=lambda one: one[:2])[2]


def planned_requests(plan: StudyPlan, trials: int) -> list[Request]:
    """Return the requests of the control and of a study's trials: of those that it has, and of as many as it lacks.

    What will be drawn isn't known, so values from the lower to the upper ends stand for it.
    """
    found: list[Tried] = []
    # without data there is no study yet, and the plan is still of use
    with contextlib.suppress(DirePlugError):
        found = read_study(plan.folder())
    known = [(one.number, one.values) for one in found if len(one.values) == len(plan.space)]
    if not known and plan.own_values is not None:
        known = [(0, plan.own_values)]
    for number in range(len(known), trials):
        share = (number + 1 / 3) / trials  # never the middle, where the recipe's own value is
        known.append((number, {one.key: one.at(share) for one in plan.space}))
    settings = [Setting(CONTROL, arm=CONTROL), *(plan.setting(number, values) for number, values in known[:trials])]
    return [request for setting in settings for request in plan.whole(setting)]


# The recipe with the preset.


def check_file(file: Path, study: str) -> None:
    """Raise for a file that no command would take for a recipe, or that exists and isn't this study's."""
    if not is_recipe_file(str(file)):
        raise DirePlugError(f"--write {file}: a recipe's file is known by its ending; end the name in .yaml")
    if file.exists() and study not in file.read_text(errors="replace").partition("\n")[0]:
        raise DirePlugError(f"{file}: exists already and isn't of the study {study}; give another name, or remove it")


def _write(plan: StudyPlan, file: Path, study: str, best: Tried, trials: Sequence[Tried], control: Trial) -> str:
    """Write the recipe with the best setting as a preset, on top of the preset that was asked for; return its name."""
    raw = read_yaml(plan.own.source)
    presets = mapping(raw, "presets")
    before = mapping(presets, plan.judged.preset) if plan.judged.preset is not None else {}
    given = settings_tree([text for text in plan.judged.settings if split_setting(text)[0][0] == "regularizers"])
    preset = merge(merge(before, given), settings_tree(as_settings(best.values)))
    name = next(name for name in (TUNED, *(f"{TUNED}-{n}" for n in range(2, len(presets) + 3))) if name not in presets)
    pruned = sum(one.state == "pruned" for one in trials)
    source = (
        f"chosen: the best of {count_of(len(trials), 'trial')} ({pruned} pruned) of dire-plug tune, arm "
        f"{plan.judged.arm}, on {plan.validation} validation images, {count_of(len(plan.seeds), 'seed')} with "
        f"{count_of(plan.students, 'student')} each: {best.accuracy:.1f} %, control "
        f"{control.accuracy:.1f} %; study {study}"
    )
    origin = f"{plan.judged.method}/{plan.own.recipe.name}"
    comment = f"A copy of {origin} with the preset '{name}', from the study {study}"
    # its arm is derived, and no preset could take away what the recipe's own arm changes
    printed_for = plan.own.recipe.ipc if plan.judged.preset == AS_PRINTED else None
    comment += "." if printed_for is None else f"; its arm dire is as printed, for IPC {printed_for}."
    write_preset(file, plan.own.source, name, preset, source=source, comment=comment, printed_for=printed_for)
    return name
