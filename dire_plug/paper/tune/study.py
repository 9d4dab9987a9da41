"""Keep the trials of a study in Optuna's journal, which any number of processes may share.

A trial belongs to the process that holds its lease. One that is running and whose lease nobody holds was left by a
process that ended: whoever asks next goes on with it, under its number and with its values, and the store has what was
finished of it. Asking is done under the lease of the study, so no trial is asked for twice.

The sampler is made anew for each trial, seeded by the study's seed and the number of the trial. So what is drawn
depends on the results that are known by then and on nothing else: a study that was interrupted has the trials of one
that wasn't. With several trials at a time, the order in which they end decides what is known.
"""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from dire_plug.errors import DirePlugError, RunBusyError
from dire_plug.files import make_folder
from dire_plug.paper.tune.space import Searched, Value, round_value
from dire_plug.seeding import derive
from dire_plug.store.lease import Lease, hold

if TYPE_CHECKING:
    import optuna

JOURNAL = "study.journal"
NAME = "tune"
STARTUP = 5
"""Trials that must be complete before one is pruned; Optuna's own default."""
State = Literal["waiting", "running", "complete", "pruned", "failed"]
ACCURACIES, RUNS, WHY = "accuracies", "runs", "why"
FIRST = 0
"""The step at which a trial reports its first student."""


@dataclass(frozen=True)
class Tried:
    """A trial as the journal has it.

    Attributes:
        values: key → value.
        first: the accuracy of the first student, in percent, where it was reported.
        accuracies: one a seed, in percent; none unless the trial is complete.
        runs: the folders of its runs, by name.
        why: the reason of one that failed.
    """

    number: int
    state: State
    values: dict[str, Value]
    first: float | None = None
    accuracies: tuple[float, ...] = ()
    runs: tuple[str, ...] = ()
    why: str | None = None

    @property
    def accuracy(self) -> float | None:
        """The mean over the seeds, in percent."""
        return statistics.fmean(self.accuracies) if self.accuracies else None


class Claimed:
    """A trial that this process works on."""

    def __init__(self, study: optuna.Study, trial: optuna.Trial, lease: Lease, space: Sequence[Searched]) -> None:
        """Take it, and its lease; draw the values that it lacks."""
        self._study, self._trial, self._lease = study, trial, lease
        self.number = trial.number
        self.values: dict[str, Value] = {one.key: _suggest(trial, one) for one in space}

    def report(self, accuracy: float) -> bool:
        """Report the first student's accuracy, in percent; return whether the trial is to be pruned."""
        self._lease.require()
        # one that a killed process left may have reported it
        if FIRST not in self._study.get_trials(deepcopy=False)[self.number].intermediate_values:
            self._trial.report(accuracy, FIRST)
        return self._trial.should_prune()

    def complete(self, accuracies: Sequence[float], runs: Sequence[str]) -> None:
        """End the trial with its accuracies, in percent, and the names of its runs."""
        self._lease.require()
        self._trial.set_user_attr(ACCURACIES, list(accuracies))
        self._trial.set_user_attr(RUNS, list(runs))
        self._study.tell(self.number, statistics.fmean(accuracies))

    def prune(self, runs: Sequence[str]) -> None:
        """End the trial after its first student."""
        from optuna.trial import TrialState

        self._trial.set_user_attr(RUNS, list(runs))
        self._study.tell(self.number, state=TrialState.PRUNED)

    def fail(self, why: str) -> None:
        """End the trial with the reason for which it failed."""
        from optuna.trial import TrialState

        self._lease.require()
        self._trial.set_user_attr(WHY, why)
        self._study.tell(self.number, state=TrialState.FAIL)


class Study:
    """The trials of one study."""

    def __init__(self, folder: Path, space: Sequence[Searched], *, seed: int, own: Mapping[str, Value] | None) -> None:
        """Open the study in `folder`, or begin it.

        Args:
            seed: of the sampler.
            own: the values of the first trial: the recipe's own setting; None draws it as well.

        Raises:
            DirePlugError: Optuna isn't installed, or the journal can't be read.
        """
        require_optuna()
        make_folder(folder)
        self.folder, self._space, self._seed, self._own = folder, space, seed, own
        self._study = _open(folder / JOURNAL, begin=True)

    def claim(self, count: int, *, total: int, held: contextlib.ExitStack) -> list[Claimed]:
        """Return up to `count` trials for this process: those that were left first, then new ones.

        Args:
            total: how many trials the study is to have.
            held: gets the leases.
        """
        from optuna.trial import Trial, TrialState

        found: list[Claimed] = []
        with hold(self.folder / "study.lease", wait=math.inf, what=f"the study {self.folder}") as lease:
            for one in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                if len(found) == count:
                    return found
                with contextlib.suppress(RunBusyError):
                    own = held.enter_context(self._holding(one.number))
                    # it may have ended between the list and the lease
                    if self._study.get_trials(deepcopy=False)[one.number].state == TrialState.RUNNING:
                        self._seed_sampler(one.number)
                        # no call of Optuna's hands out a trial that was begun before, but its class does
                        found.append(Claimed(self._study, Trial(self._study, one._trial_id), own, self._space))
            while len(found) < count:
                trials = self._study.get_trials(deepcopy=False)
                if not trials and self._own is not None:
                    self._study.enqueue_trial(dict(self._own))
                elif len(trials) >= total and all(one.state != TrialState.WAITING for one in trials):
                    break
                number = next((one.number for one in trials if one.state == TrialState.WAITING), len(trials))
                own = held.enter_context(self._holding(number))
                lease.require()
                self._seed_sampler(number)
                found.append(Claimed(self._study, self._study.ask(), own, self._space))
        return found

    def wait_for_others(self, *, wait: bool) -> bool:
        """Wait until another process has ended one of its trials, or itself; return whether there was any.

        Raises:
            RunBusyError: there is, and `wait` is False.
        """
        for one in self.trials():
            if one.state == "running":
                with self._holding(one.number, wait=math.inf if wait else 0):
                    return True
        return False

    def trials(self) -> list[Tried]:
        """Return all trials by number."""
        return [_read(one) for one in self._study.get_trials(deepcopy=False)]

    def _seed_sampler(self, number: int) -> None:
        import optuna

        self._study.sampler = optuna.samplers.TPESampler(seed=derive(self._seed, "trial", number))

    def _holding(self, number: int, *, wait: float = 0) -> contextlib.AbstractContextManager[Lease]:
        path = self.folder / f"trial-{number}.lease"
        return hold(path, wait=wait, what=f"trial {number} of the study {self.folder}")


def require_optuna() -> None:
    """Raise where Optuna isn't installed."""
    try:
        import optuna
    except ImportError as error:
        raise DirePlugError("tune needs Optuna; install it with: pip install 'dire-plug[tune]'") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it would print each trial in words of its own


def read_study(folder: Path) -> list[Tried]:
    """Return the trials of a study, none where it hasn't begun; nothing is written.

    Raises:
        DirePlugError: see `Study`.
    """
    if not (folder / JOURNAL).is_file():
        return []
    require_optuna()
    return [_read(one) for one in _open(folder / JOURNAL, begin=False).get_trials(deepcopy=False)]


def _open(path: Path, *, begin: bool) -> optuna.Study:
    """Open a journal, or make it, with its one study."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    pruner = optuna.pruners.MedianPruner(n_startup_trials=STARTUP)
    try:
        if begin:
            _drop_torn_line(path)
        storage = JournalStorage(JournalFileBackend(str(path)))
        if begin and not storage.get_all_studies():
            # where another process does the same, that one's is taken
            return optuna.create_study(
                storage=storage, study_name=NAME, direction="maximize", pruner=pruner, load_if_exists=True
            )
        return optuna.load_study(storage=storage, study_name=NAME, pruner=pruner)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DirePlugError(f"{path}: is no journal of Optuna's ({error!r}); move it away to begin again") from error


def _drop_torn_line(path: Path) -> None:
    """Remove what a full disk left of a line, since the next one would be added to it."""
    from optuna.storages.journal import JournalFileSymlinkLock

    if not path.is_file():
        return
    lock = JournalFileSymlinkLock(str(path))
    lock.acquire()  # so that nobody is in the middle of a line
    try:
        whole = path.read_bytes().rfind(b"\n") + 1
        if whole < path.stat().st_size:
            with path.open("r+b") as file:
                file.truncate(whole)
    finally:
        lock.release()


def _suggest(trial: optuna.Trial, one: Searched) -> Value:
    if one.choices:
        return str(trial.suggest_categorical(one.key, one.choices))
    return round_value(trial.suggest_float(one.key, one.low, one.high, log=one.log))


def _read(trial: optuna.trial.FrozenTrial) -> Tried:
    states: dict[str, State] = {"FAIL": "failed"}
    kept: Mapping[str, Any] = trial.user_attrs
    name: Any = trial.state.name
    return Tried(
        number=trial.number,
        state=states.get(name, name.lower()),
        values={key: value if isinstance(value, str) else round_value(value) for key, value in trial.params.items()},
        first=trial.intermediate_values.get(FIRST),
        accuracies=tuple(kept.get(ACCURACIES, ())) if name == "COMPLETE" else (),
        runs=tuple(kept.get(RUNS, ())),
        why=kept.get(WHY),
    )
