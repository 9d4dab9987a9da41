"""Show a comparison of methods: accuracies by both protocols, how far their rankings agree, a figure, and a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from pydantic import TypeAdapter
from rich.console import RenderableType

from dire_plug.errors import count_of
from dire_plug.files import digest, read_json, write_json
from dire_plug.measures import ACCURACY, JUDGED_ON_VALIDATION, Measure, diversity_measures
from dire_plug.recipe.evaluate import Evaluate, EvaluateSection, HardLabelsSection
from dire_plug.results.comparison import Comparison
from dire_plug.results.figures import INK, MARKERS, REAL, colour, new_figure, plain, save_figure
from dire_plug.results.methods import MethodsComparison, Protocol
from dire_plug.results.statistics import FEW, Agreement, Difference, find_agreement, rank, summarise
from dire_plug.results.stored import find_stored, from_json, reading, to_json
from dire_plug.results.table import (
    FEW_PAIRS,
    REFERENCE,
    describe_pairing,
    difference,
    make_rows,
    read_column,
    real_image_notes,
)
from dire_plug.tables import Table, with_notes

LAST = ACCURACY[0]
SHOWN = tuple(
    at for at, one in enumerate(diversity_measures("I")) if one.key.startswith(("coverage", "class_cov", "similarity"))
)
"""The places of the measures in I that are shown."""
ONE, OWN = "one", "own"
"""The two protocols, in headings and keys."""
REAL_ROWS = "real images"


def render(found: MethodsComparison) -> RenderableType:
    """Return the tables of accuracy and diversity, of ranks, and of the agreement of the rankings."""
    first, protocol = found.first, found.protocol
    title = (
        f"{len(found.judged)} methods · IPC {first.ipc} · one protocol: {protocol.recipe}, labels: {protocol.labels}"
    )
    parts = [_accuracy_table(found), *([_rank_table(found)] if len(found.judged) > 1 else [])]
    if agreements := find_agreements(found):
        parts.append(_agreement_table(agreements))
    return with_notes(*parts, title=title, notes=notes(found))


def _accuracy_table(found: MethodsComparison) -> Table:
    table = Table("method", "arm", title="accuracy of students, and diversity in I")
    in_i = [diversity_measures("I")[at] for at in SHOWN]
    columns = [LAST.title, *([f"by its {OWN} protocol"] if found.own else []), *(one.title for one in in_i)]
    table.add_numbers(*columns)
    for name, comparison in found.judged.items():
        own = {} if name not in found.own else _cells(found.own[name], [LAST])
        for (kind, label), cells in _cells(comparison, [LAST, *in_i]).items():
            second = [own.get((kind, label), ("",))[0]] if found.own else []
            table.add_row(name, label, cells[0], *second, *cells[1:])
        table.add_section()
    if found.real is not None:
        for (kind, label), cells in _cells(found.real, [LAST, *in_i], space="I").items():
            # the reference has no accuracy
            of_student, rest = (("–",), cells) if kind == REFERENCE else (cells[:1], cells[1:])
            table.add_row(REAL_ROWS, label, *of_student, *(["–"] if found.own else []), *rest)
    return table


def _cells(
    comparison: Comparison, measures: Sequence[Measure], *, space: str | None = None
) -> dict[tuple[str, str], tuple[str, ...]]:
    """Return (kind, label) → cells of the rows of a comparison; of the real reference, its diversity in I."""
    rows = {}
    for kind, label, cells in make_rows(comparison, measures, space=space):
        rows[kind, label] = tuple(cells[at] for at in SHOWN) if kind == REFERENCE else cells
    return rows


def means_of(comparisons: Mapping[str, Comparison]) -> dict[str, dict[str, float]]:
    """Return arm, or `ARM − control`, → method → its mean accuracy; only those that every method has."""
    found: dict[str, dict[str, float]] = {}
    for name, comparison in comparisons.items():
        for arm in comparison.runs:
            if (summary := summarise(read_column(comparison, arm, LAST))) is not None:
                found.setdefault(arm, {})[name] = summary.mean
        for arm in comparison.controlled:
            if (gap := difference(comparison, LAST, arm=arm)) is not None:
                found.setdefault(f"{arm} − control", {})[name] = gap.mean
    return {arm: of_methods for arm, of_methods in found.items() if len(of_methods) == len(comparisons)}


def find_agreements(found: MethodsComparison) -> dict[str, Agreement]:
    """Return arm → how far the ranking of methods by their own protocols agrees with that under the one protocol."""
    own, one = means_of(found.own), means_of(found.judged)
    agreements = {}
    for arm in own.keys() & one.keys() if found.own else ():
        names = list(one[arm])
        if (agreed := find_agreement([own[arm][name] for name in names], list(one[arm].values()))) is not None:
            agreements[arm] = agreed
    return {arm: agreements[arm] for arm in one if arm in agreements}


def _rank_table(found: MethodsComparison) -> Table:
    kinds = {OWN: means_of(found.own), ONE: means_of(found.judged)}
    ranks = {
        (f"{arm}, {kind}" if found.own else arm): dict(zip(of_methods, rank(list(of_methods.values())), strict=True))
        for arm in kinds[ONE]
        for kind, means in kinds.items()
        if (of_methods := means.get(arm))
    }
    table = Table("method", title="rank of the methods, 1 is the best")
    table.add_numbers(*ranks)
    for name in found.judged:
        table.add_row(name, *(f"{of_methods[name]:g}" for of_methods in ranks.values()))
    return table


def _agreement_table(agreements: Mapping[str, Agreement]) -> Table:
    table = Table("arm", title="do the methods' own protocols rank them as the one protocol does?")
    table.add_numbers("methods", "Kendall's τ", "p", "Spearman's ρ")
    for arm, one in agreements.items():
        table.add_row(arm, str(one.n), f"{one.tau:.2f}", f"{one.tau_p:.3f}", f"{one.rho:.2f}")
    return table


def notes(found: MethodsComparison) -> list[str]:
    """Return the lines below the tables."""
    first, section = found.first, found.protocol.section
    n = len(first.seeds)
    own = "a network of the dataset's own classes and normalisation, trained as that recipe's teacher"
    label = f"{own}, labels"
    if isinstance(section, HardLabelsSection):
        augmented = "without augmentation" if section.dsa == "none" else f"with DSA ({section.dsa})"
        label = f"the class is the label, {augmented}; images are normalised as for {own}"
    number = "1 synthesis" if n == 1 else f"{n} syntheses"
    lines = [
        f"one protocol: {section.protocol}, from {found.protocol.recipe}, {section.epochs} epochs in batches of "
        f"{section.batch_size}; {label}",
        f"{number} per arm, each with {count_of(section.per_synthesis, 'student')} of "
        + " and of ".join(section.students),
        "engines: " + ", ".join(f"{name} {one.engine}" for name, one in found.judged.items()),
        "diversity in I, one network for all methods: that of the protocol's recipe",
    ]
    if any(run.metrics.get("judged") == "validation" for runs in first.runs.values() for run in runs):
        lines.append(JUDGED_ON_VALIDATION)
    lines.append("± standard deviation over syntheses" if n > 1 else "one synthesis per arm: no spread")
    if any(one.controlled for one in found.judged.values()):
        lines.append(describe_pairing("…", several=n > 1))
        if n < FEW:
            lines.append(f"n = {n}: {FEW_PAIRS}")
    for name, comparison in found.judged.items():
        lines += [f"{name}: {arm} equals {other} here, so it was run once" for arm, other in comparison.same.items()]
    for name, count in found.images.items():
        lines.append(
            f"{name}: makes {count} images of a class at IPC {first.ipc}, so its students take "
            f"{count / first.ipc:.2g} times as many steps"
        )
    lines += gain_notes(found)
    if len(found.judged) < FEW and find_agreements(found):
        lines.append(f"{len(found.judged)} methods: so few rankings agree, or don't, by chance")
    if found.real is not None:
        lines += real_image_notes({arm: runs[0].metrics for arm, runs in found.real.runs.items()}, seeds=n)
    changes = dict.fromkeys(change for one in found.judged.values() for change in one.changes)
    return [*(f"with {change}" for change in changes), *lines]


def gain_notes(found: MethodsComparison) -> list[str]:
    """Return a line for each arm with a term and each protocol: for how many methods it gains on its control."""
    lines = []
    arms = dict.fromkeys(arm for one in found.judged.values() for arm in one.controlled)
    for arm in arms:
        for comparisons, what in ((found.own, "by their own protocols"), (found.judged, "under the one protocol")):
            if gaps := _gaps(comparisons, arm):
                gains = [name for name, gap in gaps.items() if gap.mean > 0]
                sure = [name for name, gap in gaps.items() if _is_sure(gap)]
                interval = (
                    f"; the interval excludes 0 for {', '.join(sure) or 'none'}" if len(found.first.seeds) > 1 else ""
                )
                lines.append(f"{arm} − control is positive for {len(gains)} of {len(gaps)} methods {what}{interval}")
    return lines


def _gaps(comparisons: Mapping[str, Comparison], arm: str) -> dict[str, Difference]:
    found = {name: difference(one, LAST, arm=arm) for name, one in comparisons.items()}
    return {name: gap for name, gap in found.items() if gap is not None}


def _is_sure(gap: Difference) -> bool:
    return gap.half_width is not None and abs(gap.mean) > gap.half_width


# Stored.


METHODS = "compare-methods"
"""The folder, beside those of the methods, and the name of the file in it."""


def methods_to_json(found: MethodsComparison) -> dict[str, Any]:
    """Return the comparison: every value of every run, ranks, and their agreement."""
    protocol, means = found.protocol, {OWN: means_of(found.own), ONE: means_of(found.judged)}
    return {
        "protocol": {
            "recipe": protocol.recipe,
            "labels": protocol.labels,
            "evaluate": protocol.section.model_dump(mode="json"),
        },
        "ipc": found.first.ipc,
        "seeds": list(found.first.seeds),
        "images_per_class": found.images,
        "methods": {
            name: {ONE: to_json(one), OWN: to_json(found.own[name]) if name in found.own else None}
            for name, one in found.judged.items()
        },
        "real": None if found.real is None else to_json(found.real),
        "means": means,
        "ranks": {
            kind: {
                arm: dict(zip(of_methods, rank(list(of_methods.values())), strict=True))
                for arm, of_methods in of.items()
            }
            for kind, of in means.items()
        },
        "agreement": {arm: vars(one) for arm, one in find_agreements(found).items()},
        "notes": notes(found),
    }


def store_methods(found: MethodsComparison, root: Path) -> Path:
    """Write compare-methods.json and the figure; return their folder.

    Args:
        root: the folder of run directories.
    """
    content = methods_to_json(found)
    comparisons = [one for of_method in content["methods"].values() for one in of_method.values()]
    runs = [arm["runs"] for one in (*comparisons, content["real"]) if one is not None for arm in one["arms"].values()]
    # the same runs are the same comparison, whatever the command line
    folder = root / METHODS / f"{found.first.recipe}-{digest([list(found.judged), runs])[:8]}"
    write_json(folder / f"{METHODS}.json", content)
    save_figure(draw_methods(found), folder / "methods.png", dpi=130)
    return folder


def load_methods(name: str, root: Path) -> tuple[Path, MethodsComparison]:
    """Return the folder of a stored comparison of methods, and the comparison with its runs as they are now.

    Args:
        name: the path of its folder or file, or the folder's name.
        root: the folder of run directories.

    Raises:
        DirePlugError: there is no such comparison, or one of its runs is missing or damaged.
    """
    path = find_stored(name, root, pattern=METHODS, file=f"{METHODS}.json", what="comparisons of methods")
    content, root = read_json(path), path.parents[2]

    def read(kind: str) -> dict[str, Comparison]:
        found = {name: of_method[kind] for name, of_method in content["methods"].items()}
        return {name: _from_json(one, root) for name, one in found.items() if one is not None}

    with reading(path, "comparison of methods", command=METHODS):
        real, protocol = content["real"], content["protocol"]
        section = TypeAdapter[EvaluateSection](Evaluate).validate_python(protocol["evaluate"])
        return path.parent, MethodsComparison(
            judged=read(ONE),
            own=read(OWN),
            real=None if real is None else _from_json(real, root),
            protocol=Protocol(protocol["recipe"], section),
            images=content["images_per_class"],
        )


def _from_json(content: Mapping[str, Any], root: Path) -> Comparison:
    return from_json(content, root / content["method"] / content["recipe"])


# Drawn.


def draw_methods(found: MethodsComparison) -> Figure:
    """Return a figure: methods from left to right, their arms' accuracies seed by seed, a panel a protocol.

    Real images stand behind the methods in the first panel, and a line shows the mean of random ones.
    """
    real = {} if found.real is None else {REAL_ROWS: found.real}
    panels = {"one protocol for all": {**found.judged, **real}}
    if found.own:
        panels["each method's own protocol"] = found.own
    width = 1.5 + 1.3 * sum(map(len, panels.values()))
    figure, axes = new_figure(max(5.0, min(width, 14.0)), 4.0, panels=len(panels), sharey=True)
    arms = list(dict.fromkeys(arm for one in panels["one protocol for all"].values() for arm in one.runs))
    for one, (title, comparisons) in zip(axes, panels.items(), strict=True):
        for place, comparison in enumerate(comparisons.values()):
            _draw_arms(one, comparison, place, arms)
        one.set_title(title, fontsize=10, color=INK)
        one.set_xticks(range(len(comparisons)), list(comparisons), rotation=30 if len(comparisons) > 4 else 0)
        plain(one)
        one.margins(x=0.08)
    axes[0].set_ylabel(LAST.title)
    if found.real is not None and (random := _mean(found.real, "random")) is not None:
        axes[0].axhline(random, color=REAL, linewidth=1, linestyle="--", zorder=0)
    # each arm once, whatever panel it was drawn in
    handles = {label: handle for handle, label in zip(*axes[0].get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), fontsize=8, frameon=False, loc="outside lower center", ncols=8)
    return figure


def _draw_arms(axes: Axes, comparison: Comparison, place: int, arms: Sequence[str]) -> None:
    """Draw the arms of one method side by side: small marks are seeds, large ones their mean."""
    for at, arm in enumerate(comparison.runs):
        values = [one for one in read_column(comparison, arm, LAST) if one is not None]
        x = place + 0.6 * ((at + 0.5) / len(comparison.runs) - 0.5)
        look: dict[str, Any] = {"color": colour(arm, arms), "marker": MARKERS.get(arm, "v"), "linestyle": "none"}
        axes.plot([x] * len(values), values, markersize=3, alpha=0.45, **look)
        if (mean := _mean(comparison, arm)) is not None:
            axes.plot([x], [mean], markersize=7, label=arm, **look)


def _mean(comparison: Comparison, arm: str) -> float | None:
    found = summarise(read_column(comparison, arm, LAST)) if arm in comparison.runs else None
    return None if found is None else found.mean
