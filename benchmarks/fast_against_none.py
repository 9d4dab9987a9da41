"""Compares runs under `--accelerate fast` with the same runs without it: accuracy and diversity, paired by seed.

    python benchmarks/fast_against_none.py sre2l --arm dire --engine native --seeds 5 --json fast-against-none.json
    python benchmarks/fast_against_none.py sre2l --recipe fashion-mnist --arm dire

Both sides run all stages, in the store of the home folder, so what is there already isn't made again. T, labels and
students of `fast` are made under it; I, which judges, is the same network for both. The table has the mean of each
side, and the mean difference fast − none with its 95 % interval by the paired t test. An interval that excludes zero
is marked; with ten figures in a table one in two tables has such a one by chance.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from dire_plug.files import write_json
from dire_plug.measures import ACCURACY, Measure, diversity_measures
from dire_plug.pipeline import Request, run_arm
from dire_plug.results.statistics import paired_difference, summarise
from dire_plug.store.provenance import code, hardware, versions

SIDES = ("none", "fast")


def main() -> None:
    """Run both sides of every seed; print the table."""
    options = parse()
    torch.set_num_threads(options.threads)
    metrics: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for seed in range(options.seeds):
        for side in SIDES:
            request = Request(
                options.method,
                recipe=options.recipe,
                arm=options.arm,
                engine=options.engine,
                device=options.device,
                settings=tuple(options.set),
                data_root=options.data_root,
                seed=seed,
                accelerate=side,
            )
            metrics[side].append(run_arm(request).metrics)
            print(f"seed {seed}, {side}: done", flush=True)
    found = [row(title, measure, metrics) for title, measure in columns()]
    components = metrics["fast"][0]["accelerate"]
    about = hardware(options.device)
    print(
        f"{options.method} {options.recipe}, arm {options.arm}, engine {metrics['none'][0]['engine']}, n = "
        f"{options.seeds} seeds; fast: synthesis {' + '.join(components['synthesis']) or 'none'}, networks "
        f"{' + '.join(components['networks']) or 'none'}; {about['card'] or about['processor']}, torch "
        f"{torch.__version__}\n"
    )
    print("| | none | fast | fast − none, 95 % | |\n|---|---|---|---|---|")
    print("\n".join(show(one) for one in found))
    if options.json is not None:
        stamp = {"command": sys.argv, "hardware": about, "versions": versions(), "code": asdict(code())}
        write_json(options.json, {"about": stamp, "components": components, "rows": found})


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method")
    parser.add_argument("--recipe", default="quick")
    parser.add_argument("--arm", default="dire")
    parser.add_argument("--engine", default="auto", choices=["auto", "upstream", "native"])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change the recipe, both sides")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--json", type=Path, help="write every value to this file, too")
    return parser.parse_args()


def columns() -> list[tuple[str, Measure]]:
    """Return the measures with their titles: accuracy, and diversity in T and I."""
    spaces = [(f"{space}: {one.title}", one) for space in ("T", "I") for one in diversity_measures(space)]
    return [(ACCURACY[0].title, ACCURACY[0]), *spaces]


def row(title: str, measure: Measure, metrics: Mapping[str, Sequence[dict[str, Any]]]) -> dict[str, Any]:
    """Return the values of one measure on both sides, by seed, with their paired difference."""
    values = {side: [measure.read(one) for one in metrics[side]] for side in SIDES}
    gap = paired_difference(values["fast"], values["none"])
    found = {} if gap is None else asdict(gap)
    return {"measure": title, "digits": measure.digits, **values, "difference": found}


def show(found: Mapping[str, Any]) -> str:
    """Return one line of the table."""
    cells, digits, gap = [found["measure"]], found["digits"], found["difference"]
    for side in SIDES:
        summary = summarise(found[side])
        spread = "" if summary is None or summary.std is None else f" ± {summary.std:.{digits}f}"
        cells.append("–" if summary is None else f"{summary.mean:.{digits}f}{spread}")
    if not gap or gap["half_width"] is None:
        return f"| {' | '.join([*cells, '–', ''])} |"
    low, high = gap["mean"] - gap["half_width"], gap["mean"] + gap["half_width"]
    cells.append(f"{gap['mean']:+.{digits + 1}f} [{low:+.{digits + 1}f}, {high:+.{digits + 1}f}]")
    return f"| {' | '.join([*cells, 'excludes zero' if low > 0 or high < 0 else ''])} |"


if __name__ == "__main__":
    main()
