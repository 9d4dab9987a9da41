"""`import dire_plug`: the command line's options as keywords, and results as values, frames, images and files."""

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from support.small_run import only_run, run_folders

import dire_plug
from dire_plug.cli import group
from dire_plug.data import load
from dire_plug.files import read_json
from dire_plug.measures import run_measures
from dire_plug.sets.condensed import read_condensed

NOT_IN_PYTHON = {
    "detach",
    "scripts",
    "dry_run",
    "card",
    # of a picture that the command draws beside the table
    "class_name",
    # the results have .save() and .details
    "table_files",
}
"""Options that make no result, or only show it."""


@pytest.fixture
def run(finished_home: Path) -> dire_plug.RunResult:
    """The finished run."""
    return dire_plug.load_run(only_run(finished_home))


def test_the_import_waits_for_no_torch() -> None:
    program = "import sys, dire_plug\ndir(dire_plug)\nassert 'torch' not in sys.modules\ndire_plug.run"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_an_unknown_attribute_is_named() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'runn'"):
        dire_plug.runn  # noqa: B018


@pytest.mark.parametrize("name", ["run", "compare", "measure", "evaluate", "tune", "compare-methods"])
def test_every_option_is_a_keyword_with_the_same_default(name: str) -> None:
    command = group.get_command(group.make_context("dire-plug", [], resilient_parsing=True), name)
    assert command is not None
    options = command.make_context(name, ["sre2l"]).params
    keywords = inspect.signature(getattr(dire_plug, name.replace("-", "_"))).parameters
    assert set(options) - NOT_IN_PYTHON == set(keywords)
    # these have their values as sequences
    for key in keywords.keys() - {"arms", "embeddings", "subsets", "method", "methods", "path"}:
        assert (keywords[key].default or None) == (options[key] or None), key


def test_a_run_is_loaded_by_its_name_with_values_by_key(run: dire_plug.RunResult) -> None:
    assert dire_plug.load_run(run.path.name).path == run.path
    assert list(run.metrics) == [measure.key for measure in run_measures()]
    last = run.details["accuracy"]["students"]["resnet-small"]["last"]
    assert run.metrics["accuracy_last"] == pytest.approx(sum(last) / len(last))
    assert run.real_reference["vendi_teacher"] == run.details["diversity"]["T"]["real"]["vendi"]


def test_a_runs_images_are_the_pixels_that_a_set_is_measured_by(run: dire_plug.RunResult) -> None:
    pixels, labels, classes = run.images()
    read = read_condensed(run.path / "images", load("digits", limit=100))
    assert pixels.dtype == torch.uint8
    assert torch.equal(pixels, read.images)
    assert torch.equal(labels, read.labels)
    assert classes == tuple(map(str, range(10)))


def test_frames_have_a_row_a_run_and_numbers_by_key(run: dire_plug.RunResult) -> None:
    pytest.importorskip("pandas")
    frame = run.to_frame()
    assert frame.loc[0, ["method", "recipe", "arm", "seed"]].tolist() == ["sre2l", "tiny", "baseline", 0]
    assert frame["accuracy_last"].dtype == frame["students_std_best"].dtype == float
    assert frame["students_std_best"].isna().all()


def test_a_frame_without_pandas_names_the_extra(run: dire_plug.RunResult, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(dire_plug.DirePlugError, match=r"pip install 'dire-plug\[notebook\]'"):
        run.to_frame()


def test_a_comparison_is_made_stored_loaded_and_shown(run: dire_plug.RunResult, recipe: Path, tmp_path: Path) -> None:
    made = dire_plug.compare("sre2l", recipe=recipe, arms=["baseline", "random"], engine="native")
    assert [one.path for one in made.runs["baseline"]] == [run.path]
    found = dire_plug.load_comparison(made.path.name)
    with pytest.raises(dire_plug.DirePlugError, match=r"plot: no 'image' \(did you mean 'images'\?\)"):
        found.plot("image")  # type: ignore[arg-type]
    assert (repr(found), str(found), found.metrics) == (repr(made), str(made), made.metrics)
    assert found.metrics["baseline"] == pytest.approx(run.metrics)
    assert found.differences == {}
    assert {arm: images.pixels.shape[0] for arm, images in found.images().items()} == {"baseline": 20, "random": 20}
    assert "<caption>sre2l · tiny · IPC 2 · engine native: accuracy of students</caption>" in found._repr_html_()
    for name in ("table.tex", "table.csv", "table.md", "figure.svg"):
        found.save(tmp_path / name)
        assert (tmp_path / name).stat().st_size > 100
    with pytest.raises(dire_plug.DirePlugError, match=r"table\.xlsx: end its name in one of \.tex"):
        found.save(tmp_path / "table.xlsx")
    pytest.importorskip("pandas")
    assert found.to_frame("runs")["arm"].tolist() == ["baseline", "random"]
    assert found.to_frame("arms")["n"].tolist() == [1, 1]
    assert found.to_frame("differences").empty


def test_methods_side_by_side_are_made_stored_loaded_and_shown(finished_home: Path, recipe: Path) -> None:
    options: dict[str, Any] = {"arms": ["baseline"], "subsets": ["random"], "engine": "native"}
    made = dire_plug.compare_methods([str(recipe)], **options)
    found = dire_plug.load_methods(made.path.name)
    assert (repr(found), str(found), found.details) == (repr(made), str(made), made.details)
    assert list(found.metrics) == ["sre2l", "real images"]
    assert list(found.metrics["sre2l"]) == ["baseline"]
    assert found.own["sre2l"].runs["baseline"][0].path == only_named(finished_home, "baseline", labeller=False)
    assert [axes.get_title() for axes in found.plot().axes] == ["one protocol for all", "each method's own protocol"]
    pytest.importorskip("pandas")
    frame = found.to_frame("arms")
    assert frame[["method", "protocol", "arm"]].to_numpy().tolist() == [
        ["sre2l", "one", "baseline"],
        ["real images", "one", "random"],
        ["sre2l", "own", "baseline"],
    ]
    assert found.to_frame("differences").empty


def only_named(home: Path, arm: str, *, labeller: bool) -> Path:
    runs = [one for one in run_folders(home) if one.name.startswith(arm)]
    (found,) = (one for one in runs if ("labeller" in read_json(one / "metrics.json")["networks"]) == labeller)
    return found


def test_a_study_is_made_stored_loaded_and_shown(home: Path, recipe: Path) -> None:
    pytest.importorskip("optuna")
    made = dire_plug.tune("sre2l", recipe=recipe, engine="native", trials=1, seeds=1)
    found = dire_plug.load_study(made.path.name)
    assert (repr(found), str(found), found.details) == (repr(made), str(made), made.details)
    assert found.best == {"regularizers.dire.multiplier": 0.3, "regularizers.dire.r_e": 0.03}
    assert found.test.path == made.test.path == dire_plug.load_comparison(made.test.path.name).path
    assert list(found.metrics) == ["control", "dire"]
    assert len(found.plot().axes) == 2
    with pytest.raises(dire_plug.DirePlugError, match="tune-0000: names 0 studies below"):
        dire_plug.load_study("tune-0000")
    pytest.importorskip("pandas")
    frame = found.to_frame()
    assert frame[["trial", "state", *found.best]].to_numpy().tolist() == [[0, "complete", 0.3, 0.03]]
    assert frame["accuracy_last"].tolist() == [found.details["trials"][0]["accuracy"]]


def test_a_measured_set_has_the_runs_values(run: dire_plug.RunResult) -> None:
    found = dire_plug.measure(run.path, embeddings="teacher")
    assert {key.rpartition("_")[2] for key in found.metrics} == {"teacher"}
    found = dire_plug.measure(run.path)
    shared = found.metrics.keys() & run.metrics.keys()
    assert len(shared) == 10
    assert {key: found.metrics[key] for key in shared} == {key: run.metrics[key] for key in shared}


def test_rerun_needs_one_process(
    recipe: Path, bare_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.yaml").write_text("executor: slurm\n")
    monkeypatch.setenv("DIRE_PLUG_CONFIG", str(tmp_path / "config.yaml"))
    for call in (dire_plug.run, dire_plug.compare, dire_plug.compare_methods, dire_plug.tune, dire_plug.evaluate):
        options: dict[str, Any] = {"recipe": recipe, "rerun": ["squeeze"]}
        options |= {} if call is dire_plug.evaluate else {"engine": "native"}
        for executor in ("local", None):
            with pytest.raises(dire_plug.DirePlugError, match=f"--executor {executor or 'slurm'} can't be combined"):
                call("sre2l", executor=executor, **options)
    assert not bare_home.exists()


def test_keywords_become_options_as_the_command_line_has_them(recipe: Path, finished_home: Path) -> None:
    with pytest.raises(dire_plug.DirePlugError, match=r"recover\.flags\.iterations: unknown key"):
        dire_plug.run("sre2l", recipe=recipe, settings={"recover.flags.iterations": 3})
    with pytest.raises(dire_plug.DirePlugError, match=r"--dire and --arm control contradict"):
        dire_plug.run("sre2l", dire=True, arm="control")
    with pytest.raises(dire_plug.DirePlugError, match=r"seed: must be a whole number, is 'x'"):
        dire_plug.run("sre2l", seed="x")  # type: ignore[arg-type]
    with pytest.raises(dire_plug.DirePlugError, match=r"seeds: must be a whole number, is \[3, 4\]"):
        dire_plug.compare("sre2l", seeds=[3, 4])  # type: ignore[arg-type]
    with pytest.raises(dire_plug.DirePlugError, match=r"no arm 'controll' \(did you mean 'control'"):
        dire_plug.compare("sre2l", arms="dire,controll")
    with pytest.raises(dire_plug.DirePlugError, match=r"engine: no 'natve' \(did you mean 'native'\?\)"):
        dire_plug.run("sre2l", engine="natve")  # type: ignore[arg-type]
    with pytest.raises(dire_plug.DirePlugError, match=r"rerun: no 'recovr' \(did you mean 'recover'\?\)"):
        dire_plug.run("sre2l", rerun=["recovr"])
    with pytest.raises(dire_plug.DirePlugError, match="unknown logger 'mine'"):
        dire_plug.run("sre2l", recipe=recipe, log="mine")
    with pytest.raises(dire_plug.DirePlugError, match="space: no 'pixel'"):
        dire_plug.measure("x", space="pixel")  # type: ignore[arg-type]
    with pytest.raises(dire_plug.DirePlugError, match="epochs: must be 1 at least, is 0"):
        dire_plug.evaluate("x", epochs=0)
    with pytest.raises(dire_plug.DirePlugError, match="did you mean 'energy'"):
        dire_plug.run("sre2l", recipe=recipe, regularizers={"enrgy": 2})
