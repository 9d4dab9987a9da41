"""The report: which runs it takes, what it shows and in which words, and that the page asks for nothing."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from support.browser import WIDTHS, find_chromium, open_browser
from support.cli import Cli
from support.small_run import read_rows
from support.terminal import as_text

from dire_plug.errors import DirePlugError
from dire_plug.files import read_json, write_json
from dire_plug.pipeline import Request, run_arm
from dire_plug.recipe import read_yaml
from dire_plug.results.figures import COLOURS, colour, colours
from dire_plug.results.report.class_grid import draw_class_grid, join, to_bytes
from dire_plug.results.report.curves import curves_figure
from dire_plug.results.report.drawing import label_runs
from dire_plug.results.report.embedded import embed_runs
from dire_plug.results.report.groups import group
from dire_plug.results.report.images import find_class
from dire_plug.results.report.page import caution, make_notes, make_tables, sum_up, write_report
from dire_plug.results.report.runs import ReportRun, find_runs, read_run
from dire_plug.results.report.similarity import REAL, class_similarities, draw_class_similarity
from dire_plug.results.report.tsne import draw_tsne, project, spread_rows
from dire_plug.results.table import render
from dire_plug.store.runs import RunFolder
from dire_plug.tables import with_minus

SEEDS = {"baseline": (0,), "control": (0, 1), "dire": (0, 1), "random": (0,)}


@pytest.fixture(scope="module")
def home_of_runs(tmp_path_factory: pytest.TempPathFactory, recipe: Path) -> Iterator[Path]:
    """A home with finished runs of four arms, dire and control with two seeds; it is the home of this module."""
    home = tmp_path_factory.mktemp("reported")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIRE_PLUG_HOME", str(home))
        for arm, seeds in SEEDS.items():
            for seed in seeds:
                run_arm(Request("sre2l", recipe=str(recipe), arm=arm, seed=seed, engine="native"))
        yield home


@pytest.fixture(scope="module")
def runs(home_of_runs: Path) -> list[ReportRun]:
    return [read_run(RunFolder(file.parent)) for file in sorted(home_of_runs.glob("runs/*/*/*/status.json"))]


@pytest.fixture(scope="module")
def page(runs: list[ReportRun], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report(runs, path, class_name="3", command="dire-plug report 'a <b>'")
    return path


def one(runs: list[ReportRun], arm: str, seed: int = 0) -> ReportRun:
    return next(run for run in runs if (run.arm, run.seed) == (arm, seed))


def changed(run: ReportRun, **recipe: Any) -> ReportRun:
    return replace(run, recipe={**run.recipe, **recipe})


# The page.


class Reader(HTMLParser):
    """Gathers the elements and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data.split()

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for found, attributes in self.found if found == tag]


@pytest.fixture(scope="module")
def elements(page: Path) -> Reader:
    return Reader(page.read_text())


def test_nothing_on_the_page_is_fetched(page: Path, elements: Reader) -> None:
    assert all("src" not in script for script in elements.all("script"))
    for tag, attributes in elements.found:
        for name in ("src", "href", "xlink:href", "srcset", "data", "poster"):
            value = attributes.get(name)
            if value is not None and tag != "a":
                assert value.startswith(("data:", "#")), (tag, name, value)
    assert not re.search(r"url\((?!#)|@import", page.read_text())


def test_each_drawing_stands_in_the_page_once(page: Path, elements: Reader) -> None:
    assert "data:image/svg" not in page.read_text()
    saved = [link["download"] for link in elements.all("a") if str(link.get("download")).endswith(".svg")]
    assert len(set(saved)) == len(saved) == len(elements.all("svg"))


def test_every_figure_has_words_for_those_who_cannot_see_it(elements: Reader) -> None:
    images, drawings = elements.all("img"), elements.all("svg")
    assert len(images) == 8  # a row, and a sheet, of each arm
    assert len(drawings) == 3 + 1 + 4 + 5
    assert all(image["alt"] for image in images)
    assert all(drawing["role"] == "img" and drawing["aria-label"] for drawing in drawings)
    labels = [str(drawing["aria-label"]) for drawing in drawings]
    assert any(re.fullmatch(r"Line plot over 10 classes; means: baseline 0\.\d+, .*", label) for label in labels)
    assert any(re.search(r"20 condensed images of dire among 100 real ones; coverage in T \d", one) for one in labels)


def test_identifiers_stand_once_and_links_lead_to_them(elements: Reader) -> None:
    identifiers = [attributes["id"] for _, attributes in elements.found if "id" in attributes]
    assert len(set(identifiers)) == len(identifiers)
    links = {str(link["href"])[1:] for link in elements.all("a") if str(link["href"]).startswith("#")}
    assert links <= set(identifiers)
    assert {"g0-tables", "g0-images", "g0-similarity", "g0-tsne", "g0-curves", "g0-provenance"} <= links


def test_loss_curves_are_term_by_term(page: Path, elements: Reader) -> None:
    text = page.read_text()
    for title in ("upstream’s loss", "term of dire", "dire: cd", "dire: cdm", "dire: edm"):
        assert f'<p class="panel-title">{title}</p>' in text


def test_the_chosen_class_the_commands_and_provenance_are_there(page: Path, runs: list[ReportRun]) -> None:
    text = page.read_text()
    assert "Images of class “3”" in text
    assert runs[0].provenance["sessions"][0]["versions"]["torch"] in text
    assert "dire-plug report &#39;a &lt;b&gt;&#39;" in text
    for run in runs:
        assert run.name in text
        assert run.provenance["dataset"][:12] in text


def test_what_a_recipe_says_cannot_become_markup(runs: list[ReportRun], tmp_path: Path) -> None:
    run = changed(one(runs, "random"), title="<script>alert(1)</script>")
    write_report([run], tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "alert(1)" in text
    assert "<script>alert" not in text
    # the page's own, and no other
    assert Reader(text).all("script") == [{}]


@pytest.mark.parametrize("address", ["javascript:alert(1)", "data:text/html,x", "http://x.org", "/home/me/clone"])
def test_only_an_https_repository_is_a_link(runs: list[ReportRun], tmp_path: Path, address: str) -> None:
    run = one(runs, "random")
    upstream = {**run.provenance["upstream"], "repository": address}
    write_report([replace(run, provenance={**run.provenance, "upstream": upstream})], tmp_path / "page.html")
    assert address in (tmp_path / "page.html").read_text()
    assert addresses(tmp_path / "page.html") == []
    write_report([run], tmp_path / "page.html")
    assert addresses(tmp_path / "page.html") == ["https://github.com/VILA-Lab/SRe2L"]


def addresses(page: Path) -> list[str]:
    """Return where the links of a page lead, but for its own sections and what it holds itself to be saved."""
    links = [link for link in Reader(page.read_text()).all("a") if "download" not in link]
    return [str(link["href"]) for link in links if not str(link["href"]).startswith("#")]


def test_the_same_runs_give_the_same_page(page: Path, runs: list[ReportRun], tmp_path: Path) -> None:
    write_report(runs, tmp_path / "again.html", class_name="3", command="dire-plug report 'a <b>'")
    assert (tmp_path / "again.html").read_bytes() == page.read_bytes()


# Tables.


def test_tables_hold_what_compare_prints(runs: list[ReportRun]) -> None:
    (found,) = group([run for run in runs if run.seed == 0])
    assert found.even
    printed = read_rows(as_text(render(found.comparison())))
    for table in make_tables(found):
        for row in table.rows:
            assert [row.label, *filter(None, row.cells)] in printed, row
    assert [row.label for row in make_tables(found)[1].rows] == [
        "baseline",
        "control",
        "dire",
        "random",
        "real reference",
        "dire − control",
    ]
    assert make_notes(found)[0] == "one synthesis per arm: neither a spread nor a best; --seeds 5 gives both"


def test_the_best_of_a_column_is_bold_whoever_has_it(runs: list[ReportRun], tmp_path: Path) -> None:
    values = {
        "baseline": {"coverage": 0.5, "class_coverage": 0.1, "vendi": 3.0, "class_vendi": 1.001, "similarity": 0.5},
        "dire": {"coverage": 0.5, "class_coverage": 0.2, "vendi": 2.0, "class_vendi": 1.0, "similarity": 0.4},
        "random": {"coverage": 0.4, "class_coverage": 0.3, "vendi": 1.0, "class_vendi": 0.5, "similarity": 0.6},
    }
    shown = []
    for arm, own in values.items():
        run = one(runs, arm)
        diversity = {space: {**found, **own} for space, found in run.metrics["diversity"].items()}
        metrics = {**run.metrics, "diversity": diversity}
        shown += [replace(run, metrics={**metrics, "seed": seed}) for seed in (0, 1)]
    (found,) = group(shown)
    rows = {row.kind: row.best for row in make_tables(found)[1].rows if row.kind in values}
    assert rows == {"baseline": {0}, "dire": {0}, "random": {1}}  # Vendi and similarity have no best
    write_report(shown, tmp_path / "page.html")
    assert '<td class="best">50.0' in (tmp_path / "page.html").read_text()
    assert ".of-dire" not in (tmp_path / "page.html").read_text()


def test_with_unequal_seeds_pairs_are_those_that_both_arms_have(runs: list[ReportRun]) -> None:
    chosen = [run for run in runs if (run.arm, run.seed) != ("control", 0)]
    (found,) = group(chosen)
    assert not found.even
    assert make_notes(found)[0].endswith("of an arm: baseline 1, control 1, dire 2, random 1")
    similarity = {run.arm: round(run.metrics["diversity"]["T"]["similarity"], 3) for run in chosen if run.seed == 1}
    cell = make_tables(found)[1].rows[-1].cells[4]
    assert cell == with_minus(f"{similarity['dire'] - similarity['control']:+.3f}")
    assert sum_up(found) == []  # one pair is no headline
    (apart,) = group([run for run in chosen if (run.arm, run.seed) != ("dire", 1)])
    assert [row.label for row in make_tables(apart)[1].rows][-1] == "real reference"
    assert sum_up(apart) == []


def test_every_arm_with_a_term_is_paired_with_control_by_itself(runs: list[ReportRun]) -> None:
    def renamed(run: ReportRun, arm: str, **sections: Any) -> ReportRun:
        recipe = {**run.recipe, "arms": {arm: run.recipe["arms"]["dire"]}, **sections}
        return replace(run, metrics=run.metrics | {"arm": arm}, recipe=recipe)

    own = [run for run in runs if run.arm == "dire"]
    energy, other = renamed(own[1], "energy"), [renamed(run, "regrouped", ipc=9) for run in own]
    controls = [run for run in runs if run.arm == "control"]
    (found,) = group([*controls, energy, *other])  # control has two seeds, energy one, and dire none
    lines = make_notes(found)
    assert "energy − control: paired by seed, the difference of the printed values" in lines
    few = "below 5 pairs a difference says little; take more --seeds"
    assert f"n = 1: {few}" in lines
    assert "regrouped: differs from control in more than its term, so no difference is formed" in lines
    assert [row.label for row in make_tables(found)[0].rows][-1] == "energy − control"
    (both,) = group([*controls, energy, *own])
    assert f"dire n = 2, energy n = 1: {few}" in make_notes(both)


def test_the_head_tells_differences_and_what_real_images_reach(runs: list[ReportRun]) -> None:
    (found,) = group(runs)
    sentences = {words: shown for words, *shown in sum_up(found)}
    assert list(sentences) == ["accuracy", "coverage in T", "coverage in I", "similarity in T"]
    assert sentences["accuracy"][0].endswith(" points")
    assert "n = 2 syntheses of each arm, paired by seed" in caution(found)
    assert "As many random real images reach" in caution(found)
    (alone,) = group([one(runs, "baseline")])
    assert sum_up(alone) == []


@pytest.mark.parametrize("arm", ["baseline", "dire", "random"])
def test_one_run_alone_has_a_page(runs: list[ReportRun], tmp_path: Path, arm: str) -> None:
    one = next(run for run in runs if run.arm == arm)
    write_report([one], tmp_path / "one.html")
    assert "Accuracy of students" in (tmp_path / "one.html").read_text()


def test_a_control_that_would_equal_the_baseline_stands_for_it(runs: list[ReportRun]) -> None:
    dire = one(runs, "dire")
    twin = changed(dire, recover=one(runs, "baseline").recipe["recover"], real={"per_class": 5})  # only a term reads it
    (found,) = group([twin, one(runs, "baseline")])
    assert [row.label for row in make_tables(found)[0].rows] == [
        "baseline",
        "control = baseline",
        "dire",
        "dire − control",
    ]
    (other,) = group([dire, one(runs, "baseline")])
    assert [row.label for row in make_tables(other)[0].rows] == ["baseline", "dire"]


def test_rungs_stand_between_baseline_and_control_with_their_steps(runs: list[ReportRun]) -> None:
    control = one(runs, "control")
    recover = control.recipe["recover"]
    other = {**recover, "plan": "keep", "flags": {**recover["flags"], "lr": 0.05}}
    rung = replace(changed(control, recover=other), metrics=control.metrics | {"arm": "rung-1-lr"})
    (found,) = group([one(runs, "dire"), control, one(runs, "control", 1), rung, one(runs, "baseline")])
    assert list(found.arms) == ["baseline", "rung-1-lr", "control", "dire"]
    labels = ["+ lr 0.05", "+ lr 0.1, 2 of a class in a batch", "+ the term"]
    assert [row.label for row in make_tables(found)[0].rows][-3:] == labels
    # without control the arm that equals it stands for it
    equal = replace(control, metrics=control.metrics | {"arm": "rung-1-start"})
    (without,) = group([one(runs, "dire"), equal, one(runs, "baseline")])
    shown = [row.label for row in make_tables(without)[0].rows]
    assert shown[:4] == ["baseline", "rung-1-start", "control = rung-1-start", "dire"]
    assert shown[-1] == "+ the term"


def test_a_rung_that_stands_for_control_may_share_no_seed_with_the_others(runs: list[ReportRun]) -> None:
    control = one(runs, "control", 1)
    rung = replace(control, metrics=control.metrics | {"arm": "rung-1-start"})
    (found,) = group([one(runs, "dire"), rung, one(runs, "baseline")])
    steps = [row for row in make_tables(found)[0].rows if row.label.startswith("+ ")]
    assert [row.label for row in steps] == ["+ 2 of a class in a batch", "+ no change", "+ the term"]
    assert {cell for row in (steps[0], steps[2]) for cell in row.cells} == {""}


def test_a_ladder_without_rungs_is_shown_where_it_is_asked_for(runs: list[ReportRun]) -> None:
    three = [one(runs, arm) for arm in ("baseline", "control", "dire")]
    ((plain,), (asked,)) = group(three), group(three, ladder=True)
    assert [row.label for row in make_tables(plain)[0].rows][3:] == ["dire − control"]
    assert [row.label for row in make_tables(asked)[0].rows][3:] == ["+ 2 of a class in a batch", "+ the term"]


# Which runs.


def test_runs_of_other_protocols_stand_in_tables_of_their_own(runs: list[ReportRun]) -> None:
    other = changed(one(runs, "random"), evaluate={**runs[0].recipe["evaluate"], "epochs": 3})
    assert [len(found.runs) for found in group([one(runs, "baseline"), other, one(runs, "dire")])] == [2, 1]


def test_networks_that_only_terms_see_tell_no_tables_apart(runs: list[ReportRun]) -> None:
    dire, control = one(runs, "dire"), one(runs, "control")
    networks = dire.metrics["networks"]
    several = replace(dire, metrics={**dire.metrics, "networks": {**networks, "frozen:resnet-18": "a digest"}})
    assert [list(found.arms) for found in group([several, control])] == [["control", "dire"]]
    other = replace(dire, metrics={**dire.metrics, "networks": {**networks, "teacher": "a digest"}})
    assert len(group([other, control])) == 2


def test_an_arm_has_one_colour_however_many_runs_it_has() -> None:
    assert colour("dpp", ["energy", "energy", "energy", "energy", "dpp"]) == colour("dpp", ["energy", "dpp"])
    assert colour("energy", ["energy", "dpp"]) != colour("dpp", ["energy", "dpp"])


def test_two_methods_of_one_figure_have_colours_of_their_own() -> None:
    found = colours({"a": ("sre2l", "baseline"), "b": ("dwa", "baseline"), "c": ("sre2l", "dire")})
    assert (found["a"], found["c"]) == (COLOURS["baseline"], COLOURS["dire"])
    assert len(set(found.values())) == 3


def test_real_images_join_each_engines_table(runs: list[ReportRun]) -> None:
    theirs = replace(one(runs, "dire"), metrics={**one(runs, "dire").metrics, "engine": "upstream"})
    found = group([one(runs, "baseline"), theirs, one(runs, "random")])
    assert [list(each.arms) for each in found] == [["baseline", "random"], ["dire", "random"]]


def test_runs_of_different_datasets_are_refused(runs: list[ReportRun]) -> None:
    run = changed(one(runs, "dire"), dataset={"name": "fashion-mnist", "size": 16})
    other = replace(run, provenance={**run.provenance, "dataset": "0" * 64})
    message = r"baseline-0-\w+ is of digits and dire-0-\w+ of fashion-mnist at 16×16; runs of different datasets can't"
    with pytest.raises(DirePlugError, match=message):
        group([one(runs, "baseline"), other])


def test_two_settings_of_an_arm_are_refused(runs: list[ReportRun]) -> None:
    arms = one(runs, "dire").recipe["arms"]
    terms = {"dire": {"regularizers": {"dire": {**arms["dire"]["regularizers"]["dire"], "r_c": 9.0}}}}
    with pytest.raises(DirePlugError, match=r"are both of the arm dire, but differ in regularizers.dire.r_c; a report"):
        group([one(runs, "dire"), changed(one(runs, "dire", 1), arms=terms)])


def test_a_title_and_a_weight_that_changes_nothing_make_no_other_setting(runs: list[ReportRun]) -> None:
    dire = one(runs, "dire")
    recipe = deepcopy(dire.recipe)
    del recipe["arms"]["dire"]["regularizers"]["dire"]["weight"]
    given = [replace(dire, recipe={**recipe, "title": "another"}), one(runs, "dire", 1)]
    (found,) = group([*given, one(runs, "control"), one(runs, "control", 1)])
    assert {arm: len(of_arm) for arm, of_arm in found.arms.items()} == {"control": 2, "dire": 2}


def test_titles_tell_a_methods_own_protocol_from_one_for_all(runs: list[ReportRun]) -> None:
    own, squeeze = one(runs, "dire"), one(runs, "dire").recipe["squeeze"]
    judged = {**own.recipe["evaluate"], "protocol": "hard-labels", "epochs": 1}
    other = changed(one(runs, "dire", 1), evaluate=judged, squeeze={**squeeze, "labeller": squeeze["teacher"]})
    (alone,) = group([own])
    assert alone.title == "sre2l · tiny · IPC 2 · engine native"
    assert [found.title for found in group([own, other])] == [
        f"{alone.title} · students by its own protocol (on-the-fly, 2 epochs)",
        f"{alone.title} · students under one protocol (hard-labels, 1 epoch)",
    ]
    assert [found.title.rpartition(" · ")[2] for found in group([other])] == [
        "students under one protocol (hard-labels, 1 epoch)"
    ]


def test_what_an_arm_does_not_depend_on_tells_its_runs_not_apart(runs: list[ReportRun]) -> None:
    real = one(runs, "random")
    flags = {**real.recipe["recover"], "start": "real"}
    seen = {**real.recipe["squeeze"], "frozen": {"resnet-18": real.recipe["squeeze"]["teacher"]}}
    other = changed(real, recover=flags, squeeze=seen, real={"per_class": 5})
    other = replace(other, metrics={**real.metrics, "seed": 1})
    assert [len(found.runs) for found in group([real, other])] == [2]


def test_an_unfinished_run_is_refused(home_of_runs: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "sre2l" / "tiny" / "dire-0-0a0b0c0d")
    run.make()
    run.set_status("failed", stage="recover")
    with pytest.raises(DirePlugError, match=r"dire-0-0a0b0c0d: this run is failed.*run its command again"):
        find_runs(["dire-0-0a0b"], tmp_path)


def write_comparison(folder: Path, runs: list[str]) -> Path:
    path = folder / "compare-0a0b0c0d" / "compare.json"
    write_json(path, {"arms": {"baseline": {"runs": runs}, "control": {"runs": runs}}})
    return path


DAMAGE: dict[str, tuple[str, Any]] = {
    "no JSON": ("metrics.json", "{"),
    "another kind": ("metrics.json", []),
    "no accuracy": ("metrics.json", {"accuracy": {"students": {"a": {"last": ["x"], "best": []}}}}),
    "no measure": ("metrics.json", {"diversity": {"T": {"coverage": 0.5}}}),
    "no network": ("metrics.json", {"networks": {}}),
    "no session": ("provenance.json", {"sessions": []}),
    "no threads": ("provenance.json", {"sessions": [{"command": [], "versions": {}, "hardware": {}, "code": {}}]}),
    "no dataset": ("recipe.yaml", {"dataset": None}),
    "no regularizers": ("recipe.yaml", {"arms": {"dire": []}}),
    "short curve": ("losses.json", {"mean": {"upstream": [1.0]}}),
    "no plan": ("plan.json", {"ipc": "two"}),
    "no mapping": ("recipe.yaml", "- 1"),
    "no bytes of text": ("provenance.json", b"\xff\xfe"),
    "no file": ("provenance.json", None),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_of_a_run_is_named_with_what_to_do(
    cli: Cli, runs: list[ReportRun], tmp_path: Path, damage: str
) -> None:
    run = one(runs, "dire")
    folder = tmp_path / "sre2l" / "tiny" / run.name
    shutil.copytree(run.folder.path, folder)
    (name, content), shown = DAMAGE[damage], tmp_path / "report.html"
    path = folder / name
    if isinstance(content, dict):
        whole = read_yaml(path) if path.suffix == ".yaml" else read_json(path)
        write_json(path, {**whole, **content})  # JSON is YAML too
    elif content is None:
        path.unlink()
    else:
        path.write_bytes(content if isinstance(content, bytes) else str(content).encode())
    answer = cli("report", folder, "--to", shown)
    if name == "plan.json":  # only figures need it, and the page says why they are missing
        assert answer.code == 0
        assert "plan.json: damaged: ipc" in shown.read_text()
        return
    assert answer.code == 2
    assert str(path) in answer.err
    assert "run its command again" in answer.err
    assert not shown.exists()


def test_a_comparison_stands_for_its_runs_each_once(home_of_runs: Path, runs: list[ReportRun], tmp_path: Path) -> None:
    path = write_comparison(runs[0].folder.path.parent, [runs[0].name, runs[1].name])
    root = home_of_runs / "runs"
    for name in (str(path), str(path.parent), "compare-0a0b0c0d"):
        assert [run.name for run in find_runs([name, runs[1].name], root)] == [runs[0].name, runs[1].name]
    gone = write_comparison(tmp_path, ["dire-0-gone"])
    with pytest.raises(DirePlugError, match=r"its run .*dire-0-gone is missing"):
        find_runs([str(gone)], root)
    gone.write_text("[]")
    with pytest.raises(DirePlugError, match="holds no comparison"):
        find_runs([str(gone)], root)


# Figures.


def test_similarities_by_class_have_the_mean_of_the_table(runs: list[ReportRun]) -> None:
    found = class_similarities(*embed_runs({run.arm: run for run in runs if run.seed == 0}))
    for arm in SEEDS:
        mean = sum(found[arm].values()) / 10
        assert mean == pytest.approx(one(runs, arm).metrics["diversity"]["T"]["similarity"], abs=1e-6)
    assert len(found[REAL]) == 10


def test_real_images_are_compared_in_the_classes_that_the_runs_show() -> None:
    torch.manual_seed(0)
    labels = torch.arange(6).repeat_interleave(2)
    shown = class_similarities({"dire": (torch.rand(4, 8), labels[4:8])}, (torch.rand(12, 8), labels))
    assert {name: list(values) for name, values in shown.items()} == {"dire": [2, 3], REAL: [2, 3]}


def test_the_projection_repeats_itself() -> None:
    torch.manual_seed(0)
    real, mine = torch.randn(40, 8), torch.randn(10, 8)
    (plane, points), (other_plane, other_points) = (project(real, {"dire": mine}) for _ in range(2))
    assert torch.equal(plane, other_plane)
    assert torch.equal(points["dire"], other_points["dire"])
    assert (plane.shape, points["dire"].shape) == ((40, 2), (10, 2))
    with pytest.raises(DirePlugError, match="t-SNE of 3 images: four are needed"):
        project(real[:2], {"dire": mine[:1]})


def test_a_sample_is_balanced_over_the_classes() -> None:
    labels = torch.tensor([0] * 50 + [1] * 5)
    values = torch.stack([labels.float(), torch.arange(55.0)], dim=1)
    kept = spread_rows((values, labels), 20)
    assert torch.bincount(kept[:, 0].long()).tolist() == [10, 5]
    assert torch.equal(kept, spread_rows((values, labels), 20))


def test_images_are_joined_with_clear_gaps_and_keep_their_pixels() -> None:
    row = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    sheet = join([row, row[:1]])
    assert sheet.shape == (9, 9, 4)
    assert np.array_equal(sheet[:4, 5:, :3], row[1])
    assert np.array_equal(sheet[5:, :4, :3], row[0])
    assert sheet[4, :, 3].tolist() == [0] * 9
    assert sheet[5, :, 3].tolist() == [255] * 4 + [0] * 5
    assert to_bytes(np.array([0.0, 0.5, 1.2])).tolist() == [0, 128, 255]


def test_the_papers_figures_are_files_with_their_numbers(runs: list[ReportRun], tmp_path: Path) -> None:
    chosen = [run.folder for run in runs if run.seed == 0 and run.arm in ("baseline", "dire")]
    points = draw_tsne(chosen, tmp_path / "figure-1.png")
    similarity = draw_class_similarity(chosen, tmp_path / "figure-2.png")
    images = draw_class_grid(chosen, tmp_path / "figure-3.png", label=7)
    assert {name: len(found["points"]) for name, found in points["runs"].items()} == {"baseline": 20, "dire": 20}
    assert sorted(similarity["mean"]) == [REAL, "baseline", "dire"]
    assert (images["class"], images["runs"]["dire"]["images"]) == ("7", 2)
    for number, numbers in ((1, points), (2, similarity), (3, images)):
        with Image.open(tmp_path / f"figure-{number}.png") as picture:
            assert picture.size[0] > 300
        assert read_json(tmp_path / f"figure-{number}.json") == numbers
    with pytest.raises(DirePlugError, match="digits has the classes 0 to 9"):
        draw_class_grid(chosen, tmp_path / "none.png", label=10)


def test_runs_are_called_by_what_tells_them_apart(runs: list[ReportRun]) -> None:
    dire, baseline = one(runs, "dire"), one(runs, "baseline")
    assert list(label_runs([baseline, dire])) == ["baseline", "dire"]
    assert list(label_runs([dire, one(runs, "dire", 1)])) == ["dire seed 0", "dire seed 1"]
    assert list(label_runs([dire, changed(dire, method="cda")])) == ["sre2l dire", "cda dire"]


def test_without_the_store_the_rest_of_the_page_is_there(
    runs: list[ReportRun], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIRE_PLUG_HOME", str(tmp_path / "empty"))
    write_report([one(runs, "baseline"), one(runs, "dire")], tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert text.count("make the report on the machine of the run") == 2
    assert len(Reader(text).all("img")) == 4
    with pytest.raises(DirePlugError, match="isn't in this store"):
        draw_tsne([one(runs, "dire")], tmp_path / "figure.png")


def test_a_damaged_image_costs_the_figures_that_need_it_alone(runs: list[ReportRun], tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(one(runs, "baseline").folder.path, folder)
    damaged = sorted((folder / "images").rglob("*.*"))[-1]
    damaged.write_bytes(b"no image")
    write_report([read_run(RunFolder(folder))], tmp_path / "page.html")
    page = Reader((tmp_path / "page.html").read_text())
    assert len(page.all("img")) == 1
    assert " ".join(page.words).count(f"This figure is missing: {damaged}: the image is damaged") == 3


def test_runs_without_a_record_of_losses_say_so(runs: list[ReportRun]) -> None:
    figure = curves_figure({"random": one(runs, "random")}, name="g0")
    assert figure.panels == {}
    assert figure.caption.startswith("This figure is missing: these runs have no losses.json")


def test_the_caption_says_what_the_curves_are(runs: list[ReportRun]) -> None:
    figure = curves_figure({arm: one(runs, arm) for arm in ("baseline", "dire")}, name="g0")
    assert figure.caption.endswith("its weight included; its parts add up to it.")
    assert len(figure.panels) == 5


def test_a_class_is_found_by_name_or_number(runs: list[ReportRun]) -> None:
    named = replace(runs[0], provenance={**runs[0].provenance, "classes": [f"digit {label}" for label in range(10)]})
    assert (find_class(named, "digit 4"), find_class(named, "4"), named.class_name(4)) == (4, 4, "digit 4")
    with pytest.raises(DirePlugError, match=r"--class 10: digits has no such class; give a number from 0 to 9"):
        find_class(named, "10")


# The command.


def test_the_command_says_where_the_page_lies(cli: Cli, runs: list[ReportRun]) -> None:
    run = one(runs, "random")
    answer = cli("report", run.name, "--device", "cpu")
    assert (answer.code, answer.out) == (0, f"report: {run.folder.path / 'report.html'}\n"), answer.err
    assert (run.folder.path / "report.html").is_file()
    bad = cli("report", run.name, "--class", "cat")
    assert bad.code == 2
    assert "--class cat: digits has no such class" in bad.err
    assert cli("report").code == 2


# In a real browser.


@pytest.mark.slow
def test_the_page_is_quiet_and_fits_a_phone(page: Path) -> None:
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium is installed")
    with open_browser(program) as browser:
        for width in WIDTHS:
            browser.open(page, width=width)
            assert browser.evaluate("innerWidth") == width
            assert browser.evaluate("document.documentElement.scrollWidth") <= width
        assert browser.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
        assert browser.console == []
        asked = {url for url in browser.requests if not url.startswith("data:")}
        assert asked == {page.as_uri()}


SAVE = """(() => {
  const link = document.querySelector("a[download$='.svg']");
  link.addEventListener("click", event => event.preventDefault());
  link.click();
  return link.offsetHeight > 0 ? fetch(link.href).then(answer => answer.text()) : "hidden";
})()"""


@pytest.mark.slow
def test_a_drawing_is_saved_without_what_it_takes_from_the_page(page: Path) -> None:
    program = find_chromium()
    if program is None:
        pytest.skip("no Chromium is installed")
    with open_browser(program) as browser:
        browser.open(page, width=WIDTHS[0])
        saved = str(browser.evaluate(SAVE))
    assert ElementTree.fromstring(saved).tag == "{http://www.w3.org/2000/svg}svg"
    assert "var(--" not in saved
