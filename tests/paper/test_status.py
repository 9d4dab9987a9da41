"""`reproduce all --status`: every figure of the paper, and the finished runs that fill it."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import yaml
from support.cli import Cli
from support.paths import ROOT

from dire_plug.files import write_json
from dire_plug.paper.reproduce import TableRequest, load_target, select, target_names
from dire_plug.paper.reproduce.paper_tables import NOT_PRINTED
from dire_plug.paper.reproduce.status import NOT_RUN, CellStatus, find_status
from dire_plug.pipeline import Request, plan_run
from dire_plug.recipe import as_file
from dire_plug.results.statistics import Summary
from dire_plug.store.runs import RunFolder

STATUS = ROOT / "results" / "status.md"
NAME = "table-4"
NOTHING: Mapping[str, Any] = MappingProxyType({})


def table(runs: Path, *, changes: Mapping[str, Any] = NOTHING, **choice: str) -> TableRequest:
    target = load_target(NAME)
    return TableRequest(target, select(target, **choice), "paper", Request("", out=runs, **changes))


def finish(
    runs: Path,
    *settings: str,
    seed: int,
    accuracy: float,
    best: float | None = None,
    fast: bool = False,
    coverage: float | None = None,
    networks: str = "0",
    dataset: str = "0",
    **options: Any,
) -> str:
    """Write what a finished run of the paper's recipe leaves that a status reads; return its folder below `runs`."""
    options = {"ipc": 10, **options}
    request = Request("sre2l", recipe="cifar-100", arm="dire", seed=seed, settings=settings, **options)
    folder = RunFolder(runs / "sre2l" / "cifar-100" / f"dire-{seed}-{len(settings)}0a0b0c0")
    folder.make()
    content = as_file(plan_run(request, dry=True).resolved)
    (folder.path / "recipe.yaml").write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    students = {"resnet-18": {"last": [accuracy], "best": None if best is None else [best]}}
    metrics: dict[str, Any] = {"arm": "dire", "seed": seed, "accuracy": {"students": students}, "diversity": {}}
    metrics["networks"] = {"teacher": networks}
    write_json(folder.path / "provenance.json", {"dataset": dataset})
    if coverage is not None:
        metrics["diversity"] = {"T": {"coverage": coverage}}
    if fast:
        metrics["accelerate"] = {"synthesis": ["bfloat16"], "networks": []}
    write_json(folder.path / "metrics.json", metrics)
    folder.set_status("finished", stage="measure")
    return str(folder.path.relative_to(runs))


def the_cell(runs: Path, changes: Mapping[str, Any] = NOTHING) -> CellStatus:
    request = table(runs, changes=changes, row="sre2l", column="10")
    (found,) = [one for one in find_status([request]) if one.row == "SRe2L + DiRe"]
    return found


def test_finished_runs_of_the_papers_recipe_fill_their_cell(tmp_path: Path) -> None:
    assert the_cell(tmp_path) == CellStatus(NAME, "SRe2L + DiRe", "IPC 10", "41.2 ± 1.1")
    folders = tuple(finish(tmp_path, seed=seed, accuracy=40.0 + 2 * seed) for seed in range(2))
    found = the_cell(tmp_path)
    assert found.ours is not None
    assert (found.ours.mean, found.ours.n, found.shown) == (41.0, 2, "41.0 ± 1.4 (2)")
    # t of one degree of freedom, 12.706, times 1.414 / sqrt(2)
    assert found.half_width == pytest.approx(12.706, abs=1e-3)
    assert found.source == folders
    others = [one for one in find_status([table(tmp_path)]) if one.ours is not None]
    assert others == [found]


@pytest.mark.parametrize("other", [{"networks": "1"}, {"dataset": "1"}])
def test_runs_of_other_networks_or_data_are_not_averaged(tmp_path: Path, other: dict[str, Any]) -> None:
    for seed in range(3):
        finish(tmp_path, seed=seed, accuracy=40.0)
    # later ones, as after an update of torch
    for seed in range(2):
        finish(tmp_path, seed=3 + seed, accuracy=50.0 + seed, **other)
    assert the_cell(tmp_path).shown == "50.5 ± 0.7 (2)"


def test_an_interval_has_the_unit_of_its_figure(tmp_path: Path) -> None:
    for seed in range(2):
        finish(tmp_path, seed=seed, accuracy=40.0, coverage=0.12 + 0.02 * seed, ipc=50)
    target = load_target("table-5")
    request = TableRequest(target, select(target, row="sre2l"), "paper", Request("", out=tmp_path))
    (found,) = [one for one in find_status([request]) if one.ours is not None]
    assert (found.paper, found.shown) == ("23.12%", "13.00 ± 1.41% (2)")
    assert found.half_width == pytest.approx(12.706, abs=1e-3)


def test_a_run_with_another_setting_fills_nothing(tmp_path: Path) -> None:
    finish(tmp_path, "evaluate.epochs=7", seed=0, accuracy=40.0)
    assert the_cell(tmp_path).shown == NOT_RUN


def test_the_best_on_test_stands_beside_where_all_runs_have_it(tmp_path: Path) -> None:
    finish(tmp_path, seed=0, accuracy=40.0, best=42.0)
    found = the_cell(tmp_path)
    assert (found.shown, found.best) == ("40.0 (1); best 42.0 (1)", Summary(42.0, None, 1))
    finish(tmp_path, seed=1, accuracy=42.0)
    assert the_cell(tmp_path).best is None


def test_a_preset_has_a_status_of_its_own(tmp_path: Path) -> None:
    finish(tmp_path, seed=0, accuracy=40.0, preset="as-printed")
    printed = {"preset": "as-printed"}
    assert (the_cell(tmp_path).shown, the_cell(tmp_path, printed).shown) == (NOT_RUN, "40.0 (1)")
    # of the other methods no recipe has the preset as-released
    released = find_status([table(tmp_path, changes={"preset": "as-released"})])
    assert {one.shown for one in released} == {NOT_RUN}


def test_a_run_by_fast_components_fills_the_status_of_fast_only(tmp_path: Path) -> None:
    finish(tmp_path, seed=0, accuracy=40.0, fast=True)
    assert (the_cell(tmp_path).shown, the_cell(tmp_path, {"accelerate": "fast"}).shown) == (NOT_RUN, "40.0 (1)")


def test_a_stored_table_fills_the_status_of_its_own_options(tmp_path: Path) -> None:
    cell = {"row": "SRe2L + DiRe", "column": "IPC 10", "ours": {"mean": 40.0, "std": None, "n": 1}}
    content = {"changes": ["--preset as-printed"], "cells": [cell]}
    write_json(tmp_path / "reproduce" / f"{NAME}-paper-changed-0" / "table.json", content)
    assert (the_cell(tmp_path).shown, the_cell(tmp_path, {"preset": "as-printed"}).shown) == (NOT_RUN, "40.0 (1)")


def test_what_reproduce_has_stored_fills_a_cell_too(tmp_path: Path) -> None:
    cell = {"row": "SRe2L + DiRe", "column": "IPC 10", "ours": {"mean": 40.0, "std": None, "n": 1}}
    write_json(tmp_path / "reproduce" / f"{NAME}-paper" / "table.json", {"changes": [], "cells": [cell]})
    assert (the_cell(tmp_path).shown, the_cell(tmp_path).half_width) == ("40.0 (1)", None)
    assert the_cell(tmp_path).source == (f"reproduce/{NAME}-paper/table.json",)


def test_the_file_in_the_repository_has_every_figure_of_the_paper() -> None:
    page = STATUS.read_text()
    targets = [load_target(name) for name in target_names()]
    for target in targets:
        section = page.partition(f"## {target.heading}\n")[2].partition("\n## ")[0]
        rows = [
            [cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"
        ]
        wanted = [
            [
                target.rows[cell.row],
                "" if target.draw else target.columns[cell.column],
                "" if target.draw else cell.figure,
            ]
            for cell in target.cells
            if target.draw or cell.figure != NOT_PRINTED
        ]
        assert [row[:3] for row in rows[2:]] == wanted, target.name
        # a figure of ours names where it comes from
        assert [row for row in rows[2:] if (row[3] == NOT_RUN) is bool(row[5])] == []


def test_the_command_writes_the_page_and_counts_what_is_filled(cli: Cli, bare_home: Path, tmp_path: Path) -> None:
    finish(bare_home / "runs", seed=0, accuracy=40.0)
    answer = cli("reproduce", NAME, "--status", tmp_path / "status.md")
    assert answer.code == 0, answer.err
    printed = sum(cell.figure != NOT_PRINTED for cell in load_target(NAME).cells)
    assert answer.out.startswith(f"1 of the paper's {printed} printed figures are filled\n")
    page = (tmp_path / "status.md").read_text()
    assert "| SRe2L + DiRe | IPC 10 | 41.2 ± 1.1 | 40.0 (1) | | `sre2l/cifar-100/dire-0-00a0b0c0` |" in page
    assert page.count(NOT_RUN) == printed - 1
