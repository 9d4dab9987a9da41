"""A ledger of speed: what the benchmarks here measured on one machine, in one JSON file; and two ledgers compared.

    python benchmarks/diversity_loss.py --json ledger.json
    python benchmarks/metrics.py --json ledger.json
    python benchmarks/step_share.py --json ledger.json
    python benchmarks/ledger.py show ledger.json
    python benchmarks/ledger.py compare before.json ledger.json
    python benchmarks/ledger.py docs results/ledger.json --into results/ledger.md docs/reference/benchmarks.md

Each benchmark adds its cases, and replaces those of the same name. A case has sides that ran in turns, and of each side
all its values, so that ratios are taken round by round, and a later reader can choose another statistic. Only ratios of
one case are worth comparing between machines, or between days of one machine that others use too.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dire_plug.files import read_json, write_json
from dire_plug.store.provenance import code, hardware

BEGIN, END = "<!-- ledger: benchmarks/ledger.py docs -->", "<!-- end of the ledger -->"
RATIOS = "<!-- ratios of the ledger: benchmarks/ledger.py docs -->"
"""Begins the tables of a page in full, or its ratios alone."""
DIGITS = 5
"""Significant digits of a value that is kept."""


def record(
    file: Path | None,
    case: str,
    sides: Mapping[str, Sequence[float]],
    *,
    benchmark: str,
    unit: str,
    device: str = "cpu",
    remark: str = "",
) -> None:
    """Add a case to a ledger; do nothing where there is no file.

    Args:
        case: what was measured.
        sides: name → a value of each round, in the order of the rounds; the first is what others are compared with.
        benchmark: the name of the script.
        unit: of the values.
        device: where it ran.
        remark: how far the sides' results lie apart, or the like.
    """
    if file is None:
        return
    ledger: dict[str, Any] = read_json(file) if file.is_file() else {"cases": []}
    where = hardware(device)
    entry = {
        "benchmark": benchmark,
        "case": case,
        "unit": unit,
        "remark": remark,
        "sides": {name: [float(f"{value:.{DIGITS}g}") for value in values] for name, values in sides.items()},
        "where": {
            "processor": where["processor"],
            "card": where["card"],
            "threads": where["threads"],
            "load": round(os.getloadavg()[0], 1),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "code": str(code()),
            "when": datetime.datetime.now(datetime.UTC).date().isoformat(),
        },
    }
    key = (benchmark, case, unit)
    kept = [one for one in ledger["cases"] if (one["benchmark"], one["case"], one["unit"]) != key]
    write_json(file, {"cases": [*kept, entry]})


def ratios(case: Mapping[str, Any], side: str) -> list[float]:
    """Return, round by round, the values of a side divided by those of the case's first side."""
    base = next(iter(case["sides"].values()))
    return [value / other for value, other in zip(case["sides"][side], base, strict=True)]


def spread(values: Sequence[float]) -> str:
    """Return median [first quartile–third quartile]; a single value alone."""
    if len(values) < 2:
        return f"{values[0]:.4g}"
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:.4g} [{low:.4g}–{high:.4g}]"


def show(ledger: Mapping[str, Any]) -> str:
    """Return a ledger as tables in Markdown, one for each benchmark."""
    parts = []
    for benchmark in dict.fromkeys(case["benchmark"] for case in ledger["cases"]):
        cases = [case for case in ledger["cases"] if case["benchmark"] == benchmark]
        parts.append(f"`benchmarks/{benchmark}.py`: {_describe(cases)}\n")
        lines = ["| case | side | value | / first side | n | |", "|---|---|---|---|---|---|"]
        for case in cases:
            for place, (side, values) in enumerate(case["sides"].items()):
                ratio = spread(ratios(case, side)) if place else "1"
                name, remark = ("", "") if place else (case["case"], case["remark"])
                cells = (name, side, f"{spread(values)} {case['unit']}", ratio, str(len(values)), remark)
                lines.append(f"| {' | '.join(cells)} |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def show_ratios(ledger: Mapping[str, Any]) -> str:
    """Return a table in Markdown for each machine: of each case the ratio of its sides, a column for each unit."""
    machines = dict.fromkeys(_machine(case) for case in ledger["cases"])
    return "\n".join(_ratios_on([case for case in ledger["cases"] if _machine(case) == one]) for one in machines)


def _machine(case: Mapping[str, Any]) -> str:
    return str(case["where"]["card"] or case["where"]["processor"])


def _ratios_on(of: Sequence[Mapping[str, Any]]) -> str:
    """Return the table of one machine's cases."""
    cases: dict[tuple[str, str, str], dict[str, str]] = {}
    for case in of:
        first, *others = case["sides"]
        for side in others:
            row = (case["benchmark"], case["case"], f"{side} / {first}")
            cell = f"{spread(ratios(case, side))} ({len(case['sides'][side])})"
            cases.setdefault(row, {})[case["unit"]] = cell
    units = list(dict.fromkeys(unit for cells in cases.values() for unit in cells))
    lines = [
        f"{_describe(of)}\n",
        f"| benchmark: case | sides | {' | '.join(units)} |",
        f"|---|---|{'---|' * len(units)}",
    ]
    for (benchmark, name, sides), cells in cases.items():
        lines.append(f"| {benchmark}: {name} | {sides} | {' | '.join(cells.get(unit, '') for unit in units)} |")
    return "\n".join(lines) + "\n"


def compare(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Return a table in Markdown of the cases of two ledgers: the ratio of each side in both, and their quotient."""
    known = {(case["benchmark"], case["case"], case["unit"]): case for case in before["cases"]}
    lines = ["| benchmark, case | side | before | after | after / before |", "|---|---|---|---|---|"]
    for case in after["cases"]:
        old = known.get((case["benchmark"], case["case"], case["unit"]))
        if old is None:
            continue
        for place, side in enumerate(one for one in case["sides"] if one in old["sides"]):
            # the first side has no other to be compared with in its rounds, so its own values stand
            values = [ratios(one, side) if place else one["sides"][side] for one in (old, case)]
            name = f"{case['benchmark']}: {case['case']}"
            of = f"{side} / {next(iter(case['sides']))}" if place else f"{side}, {case['unit']}"
            quotient = statistics.median(values[1]) / statistics.median(values[0])
            lines.append(f"| {name} | {of} | {spread(values[0])} | {spread(values[1])} | {quotient:.3g} |")
    return "\n".join(lines) + "\n"


def _describe(cases: Sequence[Mapping[str, Any]]) -> str:
    """Return what the values of a benchmark were made with."""
    places = dict.fromkeys(
        f"{_machine(case)}, {one['threads']} thread(s), torch {one['torch']}, {one['when']}"
        for case, one in ((case, case["where"]) for case in cases)
    )
    loads = [case["where"]["load"] for case in cases]
    return f"{'; '.join(places)}; load {min(loads):g}–{max(loads):g}; median [quartiles] of n rounds in turns"


def write_docs(ledger: Mapping[str, Any], page: Path) -> None:
    """Write a ledger's tables, or its ratios, between the two marks of a page."""
    page.write_text(fill(page.read_text(), ledger, where=page))


def fill(text: str, ledger: Mapping[str, Any], *, where: Path) -> str:
    """Return a page's text with what a ledger has between its marks, of which the first says how much that is."""
    for begin, shown in ((BEGIN, show), (RATIOS, show_ratios)):
        if begin in text and END in text:
            return f"{text[: text.index(begin)]}{begin}\n{shown(ledger)}\n{text[text.index(END) :]}"
    raise SystemExit(f"{where}: it has no lines '{BEGIN}' (or '{RATIOS}') and '{END}' between which the tables go")


def main() -> None:
    """Show one ledger, compare two, or write one into pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, count in (("show", 1), ("compare", 2), ("docs", 1)):
        one = commands.add_parser(name)
        one.add_argument("files", nargs=count, type=Path)
        if name == "docs":
            one.add_argument("--into", nargs="+", type=Path, required=True)
    options = parser.parse_args()
    ledgers = [read_json(file) for file in options.files]
    if options.command == "docs":
        for page in options.into:
            write_docs(ledgers[0], page)
    else:
        print(show(ledgers[0]) if options.command == "show" else compare(*ledgers), end="")


if __name__ == "__main__":
    main()
