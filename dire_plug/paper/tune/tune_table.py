"""Show, store and draw a study: its trials on validation images, the best first, and the test of the best."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich.console import RenderableType
from rich.text import Text

from dire_plug.errors import count_of
from dire_plug.files import read_json, write_json
from dire_plug.paper.ablate.components import spread_notes
from dire_plug.paper.ablate.sweep_table import describe_gap, describe_luck, seeds_in_words
from dire_plug.paper.ablate.trials import Setting, Trial
from dire_plug.paper.tune.search import CONTROL, LAST, OWN, Studied, Tuned
from dire_plug.paper.tune.space import Searched, short_names
from dire_plug.paper.tune.study import STARTUP, Tried
from dire_plug.results.figures import INK, colour, new_figure, plain, save_figure
from dire_plug.results.statistics import Difference, paired_difference, summarise
from dire_plug.results.stored import find_stored, from_json, read_finished, reading, store_comparison, to_json
from dire_plug.results.table import format_difference, format_summary, read_column, render
from dire_plug.tables import Table, with_notes

ORDER = ("complete", "pruned", "failed", "running", "waiting")


def render_tuned(tuned: Tuned) -> list[RenderableType]:
    """Return the table of the trials with its caveats, the comparison on the test set, and the outcome in sentences."""
    plan = tuned.plan
    title = f"{plan.method} · {plan.recipe} · IPC {plan.ipc} · engine {plan.engine}"
    trials = with_notes(_trials_table(tuned), title=f"{title} · settings of {plan.arm}", notes=study_notes(tuned))
    return [trials, render(tuned.tested), *(Text(f"  {line}") for line in verdict(tuned))]


def ranked(trials: Sequence[Tried]) -> list[Tried]:
    """Return the trials, the best first, then those that were pruned by their first student, and those that failed."""

    def rank(one: Tried) -> tuple[int, float]:
        value = one.first if one.accuracy is None else one.accuracy
        return ORDER.index(one.state), 0.0 if value is None else -value

    return sorted(trials, key=rank)


def _trials_table(tuned: Tuned) -> Table:
    plan, names = tuned.plan, short_names(tuned.plan.space)
    own = tuned.control.column(LAST) if is_controlled(tuned) else []
    table = Table("trial", title=f"on {plan.validation} validation images, {seeds_in_words(plan.seeds)}")
    table.add_numbers(*names.values(), "first student %", "accuracy, last %", f"− {CONTROL}")
    for one in ranked(tuned.trials):
        label = f"{one.number}" + (f", {OWN}" if one.number == tuned.own else "")
        label += " ← best" if one.number == tuned.best.number else "" if one.state == "complete" else f", {one.state}"
        values = [
            f"{value:g}" if isinstance(value, float) else value
            for value in map(one.values.get, names)
            if value is not None
        ]
        first = "–" if one.first is None else f"{one.first:.1f}"
        gap = paired_difference(one.accuracies, own) if one.accuracies and own else None
        table.add_row(
            label, *values, first, format_summary(summarise(one.accuracies), LAST), format_difference(gap, LAST)
        )
    table.add_section()
    table.add_row(CONTROL, *("" for _ in names), "", format_summary(tuned.control.summary(LAST), LAST), "")
    return table


def verdict(tuned: Tuned) -> list[str]:
    """Return the outcome in sentences, also where the best setting loses on the test set."""
    best, control = tuned.best, tuned.control.accuracy
    done = sum(one.state == "complete" for one in tuned.trials)
    lines = [
        f"best of {count_of(len(tuned.trials), 'trial')} ({done} complete) on validation images: trial {best.number}"
    ]
    if best.accuracy is not None and control is not None and best.accuracy <= control:
        lines.append("on validation images no more accurate than control: the term did not help there")
    gaps = test_gaps(tuned)
    against = [describe_gap(gap, name) for name, gap in gaps.items()]
    if best.number == tuned.own:
        lines.append(f"that is {OWN} setting; on the test set it {' and '.join(against)}")
    else:
        lines.append(f"on the test set it {' and '.join(against)}")
    return lines


def test_gaps(tuned: Tuned) -> dict[str, Difference | None]:
    """Return by how much the best is more accurate on the test set than control, and than the recipe's own setting.

    The latter where it is another one, and was tested.
    """
    best = read_column(tuned.tested, tuned.plan.arm, LAST)
    control = read_column(tuned.tested, CONTROL, LAST)
    gaps = {CONTROL: paired_difference(best, control) if is_controlled(tuned) else None}
    if tuned.own_tested is not None:
        gaps[f"{OWN} setting"] = paired_difference(best, [LAST.read(run.metrics) for run in tuned.own_tested])
    return gaps


def is_controlled(tuned: Tuned) -> bool:
    """Return whether `control` is the arm without its term, and nothing else."""
    return tuned.plan.arm in tuned.tested.controlled


def study_notes(tuned: Tuned) -> list[str]:
    """Return the lines below the trials."""
    plan = tuned.plan
    lines = spread_notes(len(plan.seeds))
    if plan.prunes:
        pruned = sum(one.state == "pruned" for one in tuned.trials)
        lines.append(
            f"{pruned} pruned: the first student of the first synthesis was below the median of those of the complete "
            f"trials, once there were {STARTUP}"
        )
    else:
        lines.append("a trial is one student, so none is pruned; evaluate.per_synthesis and --seeds give more")
    luck = "" if tuned.best.accuracy is None else describe_luck(tuned.best.accuracy, plan.validation)
    lines.append(
        f"the best of {count_of(len(tuned.trials), 'trial')} looks better on validation images than it is, since the "
        f"luckiest is chosen{luck}"
    )
    lines.append(
        "the test has no such bias: new seeds, and images by which nothing was chosen; its networks learned "
        "without the validation images as well"
    )
    lines += space_notes(plan)
    lines += [f"trial {one.number} failed: {one.why}" for one in tuned.trials if one.why]
    return lines


def space_notes(plan: Studied) -> list[str]:
    """Return the lines that say what is searched, and what isn't."""
    lines = [f"searched: {one}" for one in plan.space]
    lines += [f"not searched: {line}" for line in plan.left_out]
    if plan.own_values is None:
        lines.append(f"{OWN} setting lies outside of what is searched, so it is no trial")
    return lines


def tuned_json(tuned: Tuned) -> dict[str, Any]:
    """Return the study for tune.json: every trial, the choice, and the test."""
    plan = tuned.plan
    control = tuned.control.column(LAST)
    gaps = {
        one.number: paired_difference(one.accuracies, control)
        for one in tuned.trials
        if one.accuracies and is_controlled(tuned)
    }
    return {
        "method": plan.method,
        "recipe": plan.recipe,
        "arm": plan.arm,
        "ipc": plan.ipc,
        "engine": plan.engine,
        "study": tuned.folder.name,
        "validation_images": plan.validation,
        "seeds": list(plan.seeds),
        "students": plan.students,
        "searched": [vars(one) for one in plan.space],
        "not_searched": plan.left_out,
        "control": {"accuracies": control, "runs": [run.folder.path.name for run in tuned.control.runs]},
        "trials": [
            {
                "trial": one.number,
                "state": one.state,
                "values": one.values,
                "first_student": one.first,
                "accuracies": list(one.accuracies),
                "accuracy": one.accuracy,
                "minus_control": None if (gap := gaps.get(one.number)) is None else vars(gap),
                "runs": list(one.runs),
                "why": one.why,
            }
            for one in tuned.trials
        ],
        "ranking": [one.number for one in ranked(tuned.trials)],
        "own": tuned.own,
        "own_values": plan.own_values,
        "best": tuned.best.number,
        "preset": tuned.preset,
        "file": str(tuned.file),
        "test": to_json(tuned.tested),
        "test_of_own": None
        if tuned.own_tested is None
        else {
            "accuracies": [LAST.read(run.metrics) for run in tuned.own_tested],
            "runs": [run.folder.path.name for run in tuned.own_tested],
        },
        "test_differences": {name: None if gap is None else vars(gap) for name, gap in test_gaps(tuned).items()},
        "notes": [*verdict(tuned), *study_notes(tuned)],
    }


STUDY = "tune.json"
"""The file of a finished study in its folder, which lies beside its runs."""


def store_tuned(tuned: Tuned, root: Path) -> Path:
    """Write tune.json, its figure, and the comparison on the test set; return the folder of that.

    Args:
        root: the folder of run directories.
    """
    compared = store_comparison(tuned.tested, root)
    write_json(tuned.folder / STUDY, tuned_json(tuned))
    save_figure(draw_tuned(tuned), tuned.folder / "tune.png", dpi=130)
    return compared


def load_tuned(name: str, root: Path) -> Tuned:
    """Return a finished study, with its runs as they are now.

    Args:
        name: the path of its folder or file, or the folder's name.
        root: the folder of run directories.

    Raises:
        DirePlugError: there is no such study, or one of its runs is missing or damaged.
    """
    path = find_stored(name, root, pattern="*/*", file=STUDY, what="studies")
    content, runs = read_json(path), path.parents[1]
    with reading(path, "study", command="tune"):
        searched = [Searched(**{**one, "choices": tuple(one["choices"])}) for one in content["searched"]]
        test, own = content["test"], content["test_of_own"]
        plan = Studied(
            method=content["method"],
            recipe=content["recipe"],
            arm=content["arm"],
            ipc=content["ipc"],
            engine=content["engine"],
            space=searched,
            left_out=content["not_searched"],
            own_values=content["own_values"],
            validation=content["validation_images"],
            seeds=tuple(content["seeds"]),
            students=content["students"],
        )
        trials = [
            Tried(
                number=one["trial"],
                state=one["state"],
                values=one["values"],
                first=one["first_student"],
                accuracies=tuple(one["accuracies"]),
                runs=tuple(one["runs"]),
                why=one["why"],
            )
            for one in content["trials"]
        ]
        return Tuned(
            plan,
            path.parent,
            Trial(
                Setting(CONTROL, arm=CONTROL), tuple(read_finished(runs / run) for run in content["control"]["runs"])
            ),
            trials,
            best={one.number: one for one in trials}[content["best"]],
            own=content["own"],
            file=Path(content["file"]),
            preset=content["preset"],
            # its recipe is the file with the preset, so its runs have a folder of their own
            tested=from_json(test, runs.parent / test["recipe"]),
            own_tested=None if own is None else [read_finished(runs / run) for run in own["runs"]],
        )


def draw_tuned(tuned: Tuned) -> Figure:
    """Return a figure: a panel for each setting, the accuracy of the trials on validation images over its value."""
    plan, names = tuned.plan, short_names(tuned.plan.space)
    ranges = [one for one in plan.space if not one.choices] or plan.space
    figure, panels = new_figure(1 + 3.2 * len(ranges), 3.6, panels=len(ranges), sharey=True)
    arm = colour(plan.arm, [plan.arm])
    for axes, one in zip(panels, ranges, strict=True):
        for state, label, face in (("complete", "complete", arm), ("pruned", "pruned (first student)", "none")):
            trials = [trial for trial in tuned.trials if trial.state == state]
            values = [trial.values[one.key] for trial in trials]
            heights = [trial.accuracy if trial.accuracy is not None else trial.first for trial in trials]
            axes.plot(values, heights, "o", color=arm, markerfacecolor=face, markersize=5, label=label)  # type: ignore[arg-type]
        axes.plot(tuned.best.values[one.key], tuned.best.accuracy, "*", color=INK, markersize=11, label="best")  # type: ignore[arg-type]
        if tuned.control.accuracy is not None:
            axes.axhline(tuned.control.accuracy, color=colour(CONTROL, ()), linestyle="--", linewidth=1, label=CONTROL)
        if one.log:
            axes.set_xscale("log")
        if not one.choices:
            axes.set_xlim(one.low / 1.1 if one.log else one.low, one.high * 1.1 if one.log else one.high)
        axes.set_xlabel(names[one.key])
        plain(axes)
    panels[0].set_ylabel(f"accuracy, %,\non {plan.validation} validation images", fontsize=9)
    panels[-1].legend(frameon=False, fontsize=8)
    what = f"{plan.method}, {plan.recipe}, IPC {plan.ipc}"
    title = f"{what}: {count_of(len(tuned.trials), 'trial')} of {plan.arm}"
    figure.suptitle(title, fontsize=10, x=0.01, ha="left")
    return figure
