"""`dire-plug reproduce` as a user sees it, by runs that take a second, and what it stores."""

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.cli import Cli
from support.small_run import read_rows, run_folders
from torchvision.utils import save_image

from dire_plug import ui
from dire_plug.acceleration import find_able
from dire_plug.data import load
from dire_plug.errors import DirePlugError, UpstreamFailedError
from dire_plug.executors import dispatch
from dire_plug.executors.dispatch import Runner
from dire_plug.executors.settings import ExecutorSettings
from dire_plug.files import read_json
from dire_plug.paper.reproduce import (
    TableRequest,
    TableResult,
    load_target,
    render,
    reproduce,
    select,
    to_json,
)
from dire_plug.paper.reproduce.fill import Runs, plain_request
from dire_plug.paper.reproduce.paper_tables import Cell
from dire_plug.paper.reproduce.result import CellResult
from dire_plug.paper.reproduce.scales import SMOKE_IPCS, SMOKE_SETTINGS
from dire_plug.paper.timing import ArmTiming, Timing
from dire_plug.pipeline import Request
from dire_plug.results.statistics import Summary
from dire_plug.sets.opened import SetRequest
from dire_plug.store.runs import FinishedRun, RunFolder

TINY = (
    "dataset.limit=100",
    "squeeze.teacher.epochs=1",
    "squeeze.independent.epochs=1",
    "recover.flags.iteration=3",
    "evaluate.epochs=2",
    "evaluate.test_every=2",
)
NATIVE = ("--scale", "smoke", "--engine", "native", "--offline")


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, home: Path) -> Path:
    """A home with the tiny recipe's teachers, where the smoke scale of SRe2L is the tiny recipe."""
    ipcs, settings = {**SMOKE_IPCS, "sre2l": (2, 3)}, {**SMOKE_SETTINGS, "sre2l": TINY}
    monkeypatch.setattr("dire_plug.paper.reproduce.scales.SMOKE_IPCS", ipcs)
    for module in ("scales", "fill"):
        monkeypatch.setattr(f"dire_plug.paper.reproduce.{module}.SMOKE_SETTINGS", settings)
    return home


def request_of_table(target: str, *, out: Path | None = None, **choice: Any) -> TableRequest:
    found = load_target(target)
    base = Request("", engine="native", offline=True, out=out)
    return TableRequest(found, select(found, **choice), "smoke", base)


def cells_by_row(content: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {cell["row"]: cell for cell in content["cells"]}


# Runs.


def test_a_row_of_accuracies_comes_from_runs_which_are_reused(cli: Cli, tiny: Path) -> None:
    command = ("reproduce", "table-2", "--row", "sre2l", "--column", "10", *NATIVE)
    first = cli(*command)
    assert first.code == 0, first.err
    assert "Table 2: accuracy on CIFAR-10, ResNet-18, % — smoke scale:" in first.out
    assert "not the paper's setting" in first.out
    assert "smoke: IPC 10 and 50 is replaced by sre2l 2 and 3" in first.out
    runs = run_folders(tiny)
    assert [run.name.split("-")[0] for run in runs] == ["baseline", "dire"]
    again = cli(*command)
    assert again.out.split("\n\nstored in")[0] == first.out.split("\n\nstored in")[0]
    assert all(len(read_json(run / "provenance.json")["sessions"]) == 1 for run in runs)
    stored = read_json(tiny / "runs" / "reproduce" / "table-2-smoke-sre2l-10" / "table.json")
    assert stored["comparable with the paper"] is False
    for run, cell in zip(runs, stored["cells"], strict=True):
        (student,) = read_json(run / "metrics.json")["accuracy"]["students"].values()
        assert cell["ours"] == {"mean": student["mean"], "std": None, "n": 1, "values": student["last"]}
        assert cell["best on test"] == student["best"]
        assert cell["runs"] == [str(run)]
        assert f"{student['mean']:.1f} (1)" in first.out
    assert [cell["paper"] for cell in stored["cells"]] == ["27.2 ± 0.4", "37.4 ± 1.1"]


def test_diversity_and_the_images_of_a_class_come_from_the_same_run(tiny: Path) -> None:
    table = reproduce(request_of_table("table-3", row="sre2l"))
    figure = reproduce(request_of_table("figure-3"))
    assert len(run_folders(tiny)) == 2
    metrics = read_json(run_folders(tiny)[0] / "metrics.json")["diversity"]["T"]
    baseline = {cell.read: table.cells[cell].values for cell in table.request.cells if cell.row == 0}
    assert baseline == {
        "coverage": (metrics["coverage"],),
        "similarity": (metrics["similarity"],),
        "vendi": (metrics["class_vendi"],),
    }
    assert figure.figure == tiny / "runs" / "reproduce" / "figure-3-smoke" / "figure.png"
    shown = read_json(figure.figure.with_suffix(".json"))
    assert shown["label"] == 3
    assert "SRe2L + DiRe: drawn" in ui.to_text(render(figure))


def test_seeds_are_syntheses_with_a_spread(tiny: Path) -> None:
    request = request_of_table("table-2", row="sre2l", column="10")
    (cell, *_) = request.cells
    result = reproduce(replace(request, cells=(cell,), seeds=2, base=replace(request.base, seed=4)))
    answer = result.cells[cell]
    assert [run.name.split("-")[1] for run in run_folders(tiny)] == ["4", "5"]
    assert answer.summary is not None
    assert answer.summary.n == len(answer.values) == 2
    assert to_json(result)["seeds"] == [4, 5]


def test_other_students_learn_from_the_runs_images(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dire_plug.paper.reproduce.scales.AT_32", ())
    request = request_of_table("table-10", row="vit", column="50")
    (cell, *_) = request.cells
    cell = replace(cell, student="convnet-small")
    answer = reproduce(replace(request, cells=(cell,))).cells[cell]
    assert answer.reason == ""
    (stored,) = (tiny / "runs" / "sets").glob("*/metrics.json")
    assert answer.values == tuple(read_json(stored)["accuracy"]["students"]["convnet-small"]["last"])


def test_jobs_get_what_fast_stands_for_with_a_tables_students(tiny: Path) -> None:
    request = request_of_table("table-10", row="vit")
    fast = replace(request, base=replace(request.base, accelerate="fast", device="cpu"))
    assert plain_request(Runs(fast, Runner(ExecutorSettings("local")))).able == find_able("cpu")
    assert plain_request(Runs(fast, Runner(ExecutorSettings("slurm", able=("tf32",))))).able == ("tf32",)
    assert plain_request(Runs(fast, Runner())).able is None
    assert plain_request(Runs(request, Runner(ExecutorSettings("slurm")))).able is None


def test_a_set_of_rdeds_is_measured_where_it_lies(tiny: Path, tmp_path: Path) -> None:
    digits = load("digits").train
    for label in range(10):
        folder = tmp_path / "syn_data" / f"{label:05d}"
        folder.mkdir(parents=True)
        for number, image in enumerate(digits.images()[digits.labels == label][:2]):
            save_image(image / 255, folder / f"class{label:05d}_id{number:05d}.png")
    request = request_of_table("table-17", row="rded")
    filled = reproduce(replace(request, rded=tmp_path / "syn_data"))
    assert run_folders(tiny) == []
    values = {cell.read: answer.values for cell, answer in filled.cells.items()}
    assert filled.reasons == []
    assert all(0 < value <= 1 for (value,) in (values["coverage"], values["similarity"]))


def test_the_row_of_rded_is_filled_by_a_run_of_that_arm(tiny: Path) -> None:
    result = reproduce(request_of_table("table-17", row="rded"))
    (run,) = run_folders(tiny)
    metrics = read_json(run / "metrics.json")
    assert (metrics["arm"], result.reasons) == ("rded", [])
    values = {cell.read: answer.values for cell, answer in result.cells.items()}
    assert values["vendi"] == (metrics["diversity"]["T"]["class_vendi"],)


# Cells that can't be filled.


def test_a_row_without_its_code_has_the_reason_and_the_rest_goes_on(cli: Cli, tiny: Path) -> None:
    answer = cli("reproduce", "figure-2", *NATIVE[:2], "--offline")
    assert answer.code == 0, answer.err
    assert "SRe2L + DiRe: drawn" in answer.out
    assert "DWA: – [1]" in answer.out
    assert "[1] recipe 'quick': DWA's own code is needed and isn't vendored" in answer.out
    assert (tiny / "runs" / "reproduce" / "figure-2-smoke" / "figure.png").is_file()


def test_a_table_of_which_nothing_can_be_filled_says_what_is_missing(cli: Cli, bare_home: Path) -> None:
    answer = cli("reproduce", "table-2", "--row", "infer", "--offline")
    assert answer.code == 2
    assert answer.err.endswith("nothing could be filled; first run: dire-plug vendor infer\n")
    assert answer.out.count("– [1]") == 4
    assert "dire-plug vendor infer" in answer.out
    assert "smoke" not in answer.out
    assert not run_folders(bare_home)


def test_a_run_that_breaks_leaves_exit_code_1_and_is_tried_once(
    cli: Cli, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def broken(request: Request) -> None:
        asked.append(request.arm)
        raise UpstreamFailedError("it fell\nover") if request.arm == "baseline" else RuntimeError("out of memory")

    monkeypatch.setattr(dispatch, "run_arm", broken)
    answer = cli("reproduce", "table-3", "--row", "sre2l", *NATIVE)
    assert answer.code == 1
    assert asked == ["baseline", "dire"]
    assert "[1] it fell over" in answer.out
    assert "[2] unexpected error (RuntimeError: out of memory)" in answer.out


def test_runs_of_different_teachers_are_told(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def canned(request: Request) -> FinishedRun:
        accuracy = {"students": {"net": {"last": [50.0], "best": [60.0]}}}
        metrics = {"networks": {"teacher": request.arm}, "accuracy": accuracy}
        return FinishedRun(RunFolder(tiny / request.arm), metrics, reused=True)

    monkeypatch.setattr(dispatch, "run_arm", canned)
    (line,) = reproduce(request_of_table("table-2", row="sre2l", column="10")).warnings
    assert line.startswith("sre2l quick: its runs were made with different teachers")
    one = request_of_table("table-2", row="sre2l")
    assert reproduce(replace(one, cells=one.cells[:2])).warnings == ()


def test_a_cell_that_the_paper_does_not_print_is_not_run(tiny: Path) -> None:
    result = reproduce(request_of_table("table-2", row="infer", column="100"))
    assert list(result.cells.values()) == [CellResult(), CellResult()]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("table-22",), "did you mean 'table-2'?"),
        (("table-2", "--row", "cda"), "table-2 has no row 'cda'"),
        (("table-2", "--column", "20"), "table-2 has no column '20'"),
        (("table-2", "--set", "ipc=20"), "--set ipc: each cell of a table says its own IPC"),
        (("table-2", "--rded", "somewhere"), "--rded: only table-17 reads it, not table-2"),
    ],
)
def test_a_wrong_name_ends_with_exit_code_2(
    cli: Cli, bare_home: Path, arguments: tuple[str, ...], message: str
) -> None:
    answer = cli("reproduce", *arguments)
    assert answer.code == 2
    assert message in answer.err


def test_the_table_as_json_is_all_of_the_output(cli: Cli, bare_home: Path) -> None:
    answer = cli("reproduce", "table-8", "--row", "delt", "--column", "10", "--offline", "--json")
    assert answer.code == 2
    content = json.loads(answer.out)
    assert cells_by_row(content)["DELT + DiRe"]["paper"] == "47.3 ± 0.1"
    assert cells_by_row(content)["DELT + DiRe"]["ours"] is None
    assert "vendor delt" in cells_by_row(content)["DELT"]["reason"]


# The table.


def filled(cell: Cell, mean: float, std: float | None = None, n: int = 1) -> dict[Cell, CellResult]:
    return {cell: CellResult(Summary(mean, std, n), (mean,))}


@pytest.mark.parametrize(
    ("target", "choice", "answer", "text"),
    [
        ("table-4", {"row": "cda", "column": "50"}, (64.26, 0.54, 5), "64.3 ± 0.5 (5)"),
        ("table-5", {"row": "cda", "column": "coverage"}, (0.1234, 0.01, 2), "12.34 ± 1.00% (2)"),
        ("table-17", {"row": "sre2l", "column": "coverage"}, (0.1234, None, 1), "0.12 (1)"),
        ("table-7", {"row": "dwa", "column": "coverage"}, (0.1234, None, 1), "12.3% (1)"),
        ("table-7", {"row": "dwa", "column": "vendi"}, (3.047, None, 1), "3.05 (1)"),
        ("table-14", {"row": "cd", "column": "coverage"}, (0.25, None, 3), "0.25 (3)"),
    ],
)
def test_a_cell_has_the_unit_of_the_printed_figure_its_spread_and_n(
    target: str, choice: dict[str, Any], answer: tuple[float, float | None, int], text: str
) -> None:
    request = replace(request_of_table(target, **choice), scale="paper")
    cell = request.cells[-1]
    result = TableResult(replace(request, cells=(cell,)), filled(cell, *answer))
    assert [request.target.rows[cell.row], cell.figure, text] in read_rows(ui.to_text(render(result)))


def test_the_best_on_test_stands_beside_the_last_where_it_is_known() -> None:
    request = replace(request_of_table("table-4", row="sre2l"), scale="paper")
    known, unknown = (next(cell for cell in request.cells if cell.ipc == ipc) for ipc in (50, 100))
    cells = {
        known: CellResult(Summary(62.0, 1.0, 2), (61.0, 63.0), more={"best on test": [63.5, 64.5]}),
        unknown: CellResult(Summary(66.0, None, 1), (66.0,), more={"best on test": None}),
    }
    shown = ui.to_text(render(TableResult(replace(request, cells=(known, unknown)), cells)))
    row = ["SRe2L", "52.2 ± 0.3", "62.0 ± 1.0 (2)", "64.0 ± 0.7 (2)", "57.5 ± 0.6", "66.0 (1)"]
    assert row in read_rows(shown)
    assert "best on test: of a test after every epoch" in shown


# Changed recipes.


def test_options_change_the_recipe_of_every_cell_and_win_over_the_scales() -> None:
    base = Request("", preset="as-printed", settings=("evaluate.epochs=3",), accelerate="fast")
    for scale in ("paper", "smoke"):
        request = replace(request_of_table("table-4"), base=base, scale=scale)
        for cell in request.cells[:2]:
            run = request.first_run(cell)
            assert (run.preset, run.settings[-1], run.accelerate) == ("as-printed", "evaluate.epochs=3", "fast")


def test_a_changed_table_says_so_and_has_a_folder_of_its_own() -> None:
    plain = replace(request_of_table("table-4"), scale="paper")
    empty: dict[Cell, CellResult] = dict.fromkeys(plain.cells, CellResult())
    changed = replace(plain, base=replace(plain.base, preset="as-printed", settings=("evaluate.epochs=3",)))
    content = to_json(TableResult(changed, empty))
    assert content["title"].endswith(" — --preset as-printed --set evaluate.epochs=3")
    assert "don't stand for the paper's: --preset as-printed --set evaluate.epochs=3" in content["notes"][0]
    assert content["comparable with the paper"] is False
    assert to_json(TableResult(plain, empty))["comparable with the paper"] is True
    long = replace(changed, base=replace(plain.base, settings=tuple(f"evaluate.epochs={n}" for n in range(9))))
    assert to_json(TableResult(long, empty))["title"].endswith(" — 9 changes, see below")
    assert len({one.folder for one in (plain, changed, long)}) == 3


def test_exact_acceleration_changes_a_table_of_seconds_only() -> None:
    for target, option, changes in (
        ("table-4", "exact", ()),
        ("table-15", "exact", ("--accelerate exact",)),
        ("table-4", "fast", ("--accelerate fast",)),
    ):
        request = request_of_table(target)
        assert replace(request, base=replace(request.base, accelerate=option)).changes == changes


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ("--scale", "smoke", "--preset", "as-released"),
            "at the smoke scale, where each method's recipe 'quick' stands for the paper's; leave --scale smoke out: "
            "sre2l/cifar-100 has it at the paper's scale",
        ),
        (
            ("--preset", "as-relased"),
            "none of the recipes of table-4 has it (did you mean 'as-released'?); they have as-released, as-printed",
        ),
        (("--row", "cda", "--preset", "as-released"), "they have as-printed"),
    ],
)
def test_a_preset_that_no_recipe_has_ends_before_anything_runs(
    cli: Cli, bare_home: Path, options: tuple[str, ...], words: str
) -> None:
    answer = cli("reproduce", "table-4", *options)
    assert answer.code == 2
    assert words in answer.err
    assert not bare_home.exists()


def test_a_cell_whose_recipe_lacks_the_preset_is_empty(tiny: Path) -> None:
    request = request_of_table("table-4", row="dwa", column="10")
    answers = reproduce(replace(request, base=replace(request.base, preset="as-released"))).cells.values()
    assert all("no preset 'as-released'" in one.reason for one in answers)


def test_the_command_names_the_methods_whose_code_is_missing_at_once(cli: Cli, bare_home: Path) -> None:
    answer = cli("reproduce", "table-12", "--column", "10", "--offline")
    assert answer.code == 2
    assert answer.err.endswith("nothing could be filled; first run: dire-plug vendor sre2l dwa cda\n")


def test_cells_that_the_paper_does_not_print_end_with_exit_code_2(cli: Cli, bare_home: Path) -> None:
    answer = cli("reproduce", "table-2", "--row", "infer", "--column", "100", "--offline")
    assert answer.code == 2
    assert "nothing could be filled, as the paper prints nothing here" in answer.err


def test_a_choice_of_rows_is_stored_apart_from_the_whole_table(tmp_path: Path) -> None:
    whole = request_of_table("table-14", out=tmp_path)
    assert whole.folder == tmp_path / "reproduce" / "table-14-smoke"
    assert replace(whole, choice=("cd+cdm", "vendi")).folder.name == "table-14-smoke-cd+cdm-vendi"


# Runs that a test doesn't make.


def test_components_are_scaled_between_least_and_greatest_of_all_seven(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def canned(request: Request) -> Any:
        parts = re.search(r"components=\[(.*)\]", " ".join(request.settings))
        calls.append(parts.group(1) if parts else request.arm)
        number = 8 - len(calls)
        if calls[-1] == "cdm":
            raise DirePlugError("the images collapsed")
        spaces = {key: 0.1 * number for key in ("coverage", "class_coverage", "vendi", "class_vendi", "similarity")}
        metrics = {
            "networks": {},
            "accuracy": {"students": {"net": {"last": [50.0 + number], "best": [60.0]}}},
            "diversity": {"T": spaces, "I": spaces},
        }
        return FinishedRun(RunFolder(tiny / "runs" / f"{len(calls)}"), metrics, reused=True)

    monkeypatch.setattr("dire_plug.executors.dispatch.run_arm", canned)
    result = reproduce(request_of_table("table-14"))
    assert calls == ["control", "cd", "cdm", "edm", "cd, cdm", "cd, edm", "cdm, edm", "cd, cdm, edm"]
    found = {(cell.row_name, cell.read): result.cells[cell] for cell in result.request.cells}
    means = {key: answer.summary.mean for key, answer in found.items() if answer.summary}
    assert means["cd", "vendi"] == 1.0
    assert means["cd+cdm+edm", "coverage"] == 0.0
    assert means["cd+edm", "similarity"] == pytest.approx((2 - 0) / (6 - 0))
    assert means["cd", "accuracy"] == 56.0
    assert "the images collapsed" in found["cdm", "vendi"].reason


def canned_arm(name: str, *, steps: int, wall: tuple[float, ...], whole: tuple[float, ...] = ()) -> ArmTiming:
    return ArmTiming(
        name=name,
        images=10,
        steps=steps,
        passes=1,
        wall=wall,
        cpu=wall,
        start=(3.0,),
        first=(2.0 + wall[0],),
        memory_before=1,
        memory=2,
        whole=tuple((seconds, seconds) for seconds in whole),
    )


def test_smoke_times_are_extrapolated_and_rows_without_code_left_out(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def canned(names: list[str], request: Request, *, steps: int, whole: int) -> Timing:
        assert (names, whole) == (["sre2l", "sre2l+dire"], 0)
        arms = [canned_arm(name, steps=100, wall=(0.5,) if "+" in name else (0.25,)) for name in names]
        return Timing(tuple(arms), "native", {"hardware": {}})

    monkeypatch.setattr("dire_plug.paper.reproduce.fill.time_arms", canned)
    monkeypatch.setattr("os.getloadavg", lambda: (1e4, 0.0, 0.0))
    result = reproduce(replace(request_of_table("table-15"), base=Request("", offline=True)))
    assert "other work ran on this machine meanwhile" in ui.to_text(render(result))
    baseline, dwa, dire = (result.cells[cell] for cell in result.request.cells)
    assert baseline.summary == Summary(3.0 + 2.0 + 100 * 0.25, None, 1)
    assert dire.summary == Summary(3.0 + 2.0 + 100 * 0.5, None, 1)
    assert "vendor dwa" in dwa.reason
    assert "extrapolated from the median of ten steps" in ui.to_text(render(result))


def test_a_time_is_that_of_whole_syntheses_at_the_papers_scale(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def canned(names: list[str], request: Request, *, steps: int, whole: int) -> Timing:
        assert (whole, request.recipe, request.ipc) == (2, "cifar-100", 50)
        return Timing((canned_arm("sre2l", steps=9, wall=(0.5,), whole=(100.0, 110.0)),), "upstream", {"hardware": {}})

    monkeypatch.setattr("dire_plug.paper.reproduce.fill.time_arms", canned)
    monkeypatch.setattr("dire_plug.paper.reproduce.fill.plan_run", lambda request: None)
    request = request_of_table("table-15", row="sre2l")
    (answer,) = reproduce(replace(request, cells=request.cells[:1], scale="paper", seeds=2)).cells.values()
    assert answer.summary == Summary(105.0, pytest.approx(50**0.5), 2)  # type: ignore[arg-type]


def test_another_network_measures_a_runs_images_with_given_weights(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def canned(request: SetRequest, **more: Any) -> Any:
        asked.append((request.path.name.split("-")[0], more))
        return SimpleNamespace(diversity={"clip": {"coverage": 0.25, "class_vendi": 2.0}})

    monkeypatch.setattr("dire_plug.paper.reproduce.fill.measure_set", canned)
    request = request_of_table("table-16")
    result = reproduce(replace(request, weights=Path("weights.pt")))
    more = {"embeddings": ("clip",), "weights": Path("weights.pt")}
    assert asked == [("baseline", more), ("dire", more)]
    clip = {cell.column_name: result.cells[cell].values for cell in request.cells if cell.embedding}
    assert clip == {"coverage-clip": (0.25,), "vendi-clip": (2.0,)}
