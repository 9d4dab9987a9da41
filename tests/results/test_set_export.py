"""Condensed sets as folders, arrays and Hugging Face datasets, and their way back."""

import re
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
import torch
import yaml
from markdown_it import MarkdownIt
from support.cli import Cli
from support.small_run import only_run

import dire_plug
from dire_plug.data import load
from dire_plug.results.report.runs import read_run
from dire_plug.results.set_export import FORMS, make_card, name_folders
from dire_plug.sets.condensed import read_condensed
from dire_plug.store.runs import RunFolder


@pytest.fixture
def run(finished_home: Path) -> dire_plug.RunResult:
    """The finished run."""
    return dire_plug.load_run(only_run(finished_home))


@pytest.mark.parametrize("form", FORMS)
def test_an_exported_set_has_the_runs_pixels_and_values(
    cli: Cli, run: dire_plug.RunResult, form: str, tmp_path: Path
) -> None:
    path = tmp_path / ("set.npz" if form == "npz" else "set")
    answer = cli("export", run.path.name, "--as", form, "--to", path)
    assert (answer.code, answer.out.splitlines()[0]) == (0, f"stored in: {path} (20 images)")
    read = read_condensed(path, load("digits", limit=100))
    pixels, labels, _ = run.images()
    assert torch.equal(read.images, pixels)
    assert torch.equal(read.labels, labels)
    beside = path.with_suffix(".yaml") if form == "npz" else path / "recipe.yaml"
    card = path.with_suffix(".md") if form == "npz" else path / "README.md"
    assert f"--recipe {beside.name} --arm baseline" in card.read_text()
    found = dire_plug.measure(path, recipe=beside).metrics
    assert {key: value for key, value in run.metrics.items() if key in found} == {
        key: value for key, value in found.items() if key in run.metrics
    }


def test_the_card_says_how_the_set_was_made_and_names_no_path(
    cli: Cli, run: dire_plug.RunResult, tmp_path: Path
) -> None:
    assert cli("export", run.path, "--as", "huggingface", "--to", tmp_path / "set").code == 0
    text = (tmp_path / "set" / "README.md").read_text()
    _, head, body = text.split("---\n", 2)
    fields = yaml.safe_load(head)
    assert fields["configs"][0]["data_files"] == [{"split": "train", "path": "train/**"}]
    assert fields["dataset_info"]["features"][1]["dtype"]["class_label"]["names"]["9"] == "9"
    assert "dire-plug run sre2l --recipe recipe.yaml --arm baseline --seed 0" in body
    assert f"| `vendi_teacher` | {run.metrics['vendi_teacher']:.2f} |" in body
    assert "The licence of the method's repository: none." in body
    assert str(tmp_path.parent) not in text + (tmp_path / "set" / "recipe.yaml").read_text()


NAMES = ("a|b", "*bold*", "[link](http://x)", "<img src=x>", "`code`", "&amp;", "~~no~~", "a_b_", "\\\\", "x: - #y")


def test_names_stand_in_the_card_as_they_are(finished_home: Path) -> None:
    run = read_run(RunFolder(only_run(finished_home)))
    odd = replace(run, provenance={**run.provenance, "classes": list(NAMES), "dataset": "a" * 64})
    odd.recipe["dataset"]["name"] = "of | *mine*"
    images = torch.zeros(20, 3, 8, 8)
    card = make_card(odd, form="huggingface", classes=NAMES, images=images, recipe="recipe.yaml")
    _, head, body = card.split("---\n", 2)
    fields = yaml.safe_load(head)
    assert list(fields["dataset_info"]["features"][1]["dtype"]["class_label"]["names"].values()) == list(NAMES)
    page = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(body)
    assert ", ".join(f"{label}: {name}" for label, name in enumerate(NAMES)) in unescape(page)
    assert "<td>of | *mine*, sha256 <code>" in page
    assert not re.search("<(a|img|s|em|strong)[ >]", page)


def test_datasets_reads_the_layout_with_the_labels(
    cli: Cli, run: dire_plug.RunResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets", reason="Hugging Face's datasets isn't installed")
    assert cli("export", run.path, "--as", "huggingface", "--to", tmp_path / "set").code == 0
    found = datasets.load_dataset(str(tmp_path / "set"), cache_dir=str(tmp_path / "cache"))["train"]
    assert found["label"] == run.images().labels.tolist()
    assert found.features["label"].names == list(run.images().classes)


def test_folders_are_numbered_where_names_would_sort_otherwise() -> None:
    assert name_folders(["airplane", "bird"]) == ["airplane", "bird"]
    assert name_folders(["bird", "airplane"]) == ["0", "1"]
    assert name_folders([*"abcdefghij", "T-shirt/top"])[-2:] == ["09", "10"]
    assert name_folders(["a", ".b"]) == ["0", "1"]


def test_what_is_there_stays_and_other_words_are_errors(cli: Cli, run: dire_plug.RunResult, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    answer = cli("export", run.path, "--as", "folder", "--to", tmp_path / "there")
    assert (answer.code, answer.err) == (2, f"error: {tmp_path}/there: is there already; name another, or remove it\n")
    assert cli("export", run.path, "--as", "npz", "--to", tmp_path / "set").code == 2
    (tmp_path / "notes.md").write_text("mine")
    answer = cli("export", run.path, "--as", "npz", "--to", tmp_path / "notes.npz")
    assert (answer.code, (tmp_path / "notes.md").read_text()) == (2, "mine")
    assert cli("export", run.path, "--as", "folder", "--only", "network", "--to", tmp_path / "x").code == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "notes.md", "there"]
