"""Run settings of the term with every seed; keep one that fails with its reason, so that the others go on."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from dire_plug import plugins, ui
from dire_plug.errors import DirePlugError, RunBusyError
from dire_plug.executors.dispatch import Runner
from dire_plug.measures import ACCURACY, Measure
from dire_plug.pipeline import plan_run
from dire_plug.recipe import read_yaml
from dire_plug.recipe.loading import mapping
from dire_plug.results.arms import check_alike, check_teachers, equal_arms
from dire_plug.results.statistics import Summary, summarise
from dire_plug.store.runs import FinishedRun, Request, Run

TERM = "dire"
"""The regularizer, and the arm that has it."""


@dataclass(frozen=True)
class Setting:
    """An arm with changes.

    Attributes:
        name: as tables show it.
        arm: its name; most are baseline, control or dire.
        changes: `KEY=VALUE` as of `--set`; they win over the command line's own.
    """

    name: str
    arm: str = TERM
    changes: tuple[str, ...] = ()

    def of(self, base: Request, *, seed: int) -> Request:
        """Return the request for this setting with one seed."""
        return replace(base, arm=self.arm, seed=seed, settings=(*base.settings, *self.changes))


@dataclass(frozen=True)
class Trial:
    """The runs of one setting, or why it failed.

    Attributes:
        runs: one a seed, in the order of the seeds; none where the setting failed.
        problem: why it failed, or that it collapsed.
        same_as: the name of the setting whose runs these are, where both are one and the same.
    """

    setting: Setting
    runs: tuple[FinishedRun, ...]
    problem: str | None = None
    same_as: str | None = None

    def column(self, measure: Measure) -> list[float | None]:
        """Return one measure for every seed; empty where the setting failed."""
        return [measure.read(run.metrics) for run in self.runs]

    def summary(self, measure: Measure) -> Summary | None:
        """Return mean and spread of one measure; None where the setting failed or has no such value."""
        return summarise(self.column(measure))

    @property
    def accuracy(self) -> float | None:
        """The mean last accuracy in percent."""
        found = self.summary(ACCURACY[0])
        return None if found is None else found.mean


def plan_settings(base: Request, settings: Sequence[Setting], *, dry: bool = False) -> dict[str, Run]:
    """Check all settings before the first is run; return the plan of each by its name.

    Raises:
        DirePlugError: one isn't valid, or they differ in more than the synthesis.
    """
    planned = {setting.name: plan_run(setting.of(base, seed=base.seed), dry=dry) for setting in settings}
    check_alike(planned)
    return planned


def run_settings(
    base: Request, settings: Sequence[Setting], *, seeds: Sequence[int], needed: Collection[str], runner: Runner
) -> dict[str, Trial]:
    """Run every setting with every seed (finished runs are reused); return the trials by name.

    Settings that come to the same run are run once. A setting that fails is reported and skipped, unless it is needed.

    Args:
        needed: names of settings whose failure ends the command.
        runner: runs them.

    Raises:
        DirePlugError: see `plan_settings`; a needed setting failed, another process works on a run, or teachers differ.
    """
    # an invalid last setting must fail before the first has run for hours
    planned = plan_settings(base, settings)
    same = equal_arms(planned)
    base = replace(base, engine=_engine(planned))  # what `auto` stands for may change while settings run
    trials: dict[str, Trial] = {}
    different = [setting for setting in settings if setting.name not in same]
    runner.prepare([setting.of(base, seed=seed) for setting in different for seed in seeds])
    for setting in settings:
        if (other := same.get(setting.name)) is not None:
            trials[setting.name] = replace(trials[other], setting=setting, same_as=other)
        else:
            trials[setting.name] = _run(base, setting, seeds=seeds, needed=setting.name in needed, runner=runner)
    # a teacher trained by another torch, as in an older run, would decide the comparison
    check_teachers({name: list(trial.runs) for name, trial in trials.items() if trial.runs})
    return trials


def _run(base: Request, setting: Setting, *, seeds: Sequence[int], needed: bool, runner: Runner) -> Trial:
    runs = []
    for seed in seeds:
        ui.say(f"{setting.name}, seed {seed}")
        try:
            runs.append(runner.run(setting.of(base, seed=seed)))
        # the user asked not to wait
        except RunBusyError:
            raise
        except DirePlugError as error:
            if needed:
                raise
            ui.warn(f"{setting.name}, seed {seed} failed: {error}")
            return Trial(setting, (), problem=f"failed with seed {seed}: {last_line(error)}")
    return Trial(setting, tuple(runs))


def _engine(planned: dict[str, Run]) -> str:
    return next(iter(planned.values())).engine


def last_line(error: DirePlugError) -> str:
    """Return the last line of an error: of a recipe's problems, the last one."""
    return str(error).splitlines()[-1].strip()


def require_term(request: Request, *, dry: bool = False) -> Run:
    """Return the plan of the recipe's own `dire` arm.

    Raises:
        DirePlugError: the recipe has no such arm, or the arm has no DiRe.
    """
    source = plugins.find_recipe(plugins.load_adapter(request.method), request.recipe)
    if TERM not in mapping(read_yaml(source), "arms", TERM, "regularizers"):
        raise DirePlugError(
            f"recipe '{request.recipe}' of {request.method} has no arm 'dire' with the regularizer 'dire', so there is "
            "nothing to ablate; add arms.dire.regularizers.dire to it (docs/recipes.md)"
        )
    return plan_run(replace(request, arm=TERM), dry=dry)
