"""What a user names (runs, comparisons, recipes, methods, files) is found, or the error says what it would be."""

import shlex
import shutil
from pathlib import Path

import pytest
from support.cli import Cli
from support.small_run import run_folders

from dire_plug import plugins
from dire_plug.errors import DirePlugError
from dire_plug.files import read_json, write_json


def test_a_runs_own_recipe_finds_that_run(cli: Cli, finished_home: Path, baseline: Path, tmp_path: Path) -> None:
    copy = shutil.copy(baseline / "recipe.yaml", tmp_path / "recipe.yaml")
    answer = cli("run", "sre2l", "--recipe", copy, "--seed", 0, "--engine", "native", "--json")
    assert answer.code == 0, answer.err
    assert [run.name for run in run_folders(finished_home)] == [baseline.name]


def test_a_set_may_be_the_name_of_a_run(cli: Cli, finished_home: Path, baseline: Path) -> None:
    answer = cli("measure", baseline.name[:-2])
    assert answer.code == 0, answer.err
    assert baseline.name in answer.out


def test_a_comparison_is_told_from_a_run(cli: Cli, finished_home: Path, baseline: Path) -> None:
    (run,) = run_folders(finished_home)
    folder = run.parent / "compare-0a1b2c3d"
    content = {"arms": {"baseline": {"runs": [run.name]}}, "ladder": []}
    write_json(folder / "compare.json", content)
    answer = cli("show", "compare-0a")
    assert answer.code == 2
    assert answer.err.endswith("; it is a comparison: dire-plug report compare-0a1b2c3d\n")
    made = cli("report", "compare-0a")
    assert made.code == 0, made.err
    assert (run / "report.html").is_file()


def test_a_report_is_a_page_and_no_other_file(cli: Cli, finished_home: Path, baseline: Path, tmp_path: Path) -> None:
    answer = cli("report", baseline.name, "--to", tmp_path / "x.pdf")
    assert answer.code == 2
    assert "a report is one HTML page; end its name in .html or .htm" in answer.err


def test_another_folder_of_runs_is_in_the_advice(cli: Cli, finished_home: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "my runs"
    elsewhere.mkdir()
    answer = cli("show", "nothing", "--runs", elsewhere)
    assert f"see `dire-plug list runs --runs {shlex.quote(str(elsewhere))}`" in answer.err


def test_the_command_of_a_run_can_be_pasted(cli: Cli, finished_home: Path) -> None:
    (run,) = run_folders(finished_home)
    provenance = read_json(run / "provenance.json")
    provenance["sessions"][-1]["command"] = ["dire-plug", "run", "sre2l", "--real", "my photos"]
    write_json(run / "provenance.json", provenance)
    assert "dire-plug run sre2l --real 'my photos'" in " ".join(cli("show", run.name).out.split())


def test_an_interrupted_run_says_where_it_is_and_what_to_do(cli: Cli, finished_home: Path) -> None:
    (run,) = run_folders(finished_home)
    status = read_json(run / "status.json")
    write_json(run / "status.json", status | {"state": "interrupted", "stage": "recover"})
    answer = cli("show", run.name)
    assert "stage: recover" in answer.out
    assert "run its command again to resume it" in answer.out


@pytest.mark.parametrize(
    ("name", "hint"),
    [("my", "did you mean the file my.yaml?"), ("cda/quick", "of the method cda it would be: cda --recipe quick")],
)
def test_a_recipe_that_is_elsewhere_is_pointed_to(
    cli: Cli, bare_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, hint: str
) -> None:
    (tmp_path / "my.yaml").write_text("title: mine\n")
    monkeypatch.chdir(tmp_path)
    answer = cli("run", "sre2l", "--recipe", name)
    assert answer.code == 2
    assert hint in answer.err


def test_dire_and_another_term_are_not_mixed_up(cli: Cli, bare_home: Path) -> None:
    answer = cli("run", "sre2l", "--dire", "--regularizer", "energy=2")
    assert answer.code == 2
    assert "sum both with --regularizer dire --regularizer energy=2" in answer.err
    both = ("--regularizer", "dire", "--regularizer", "energy=2")
    assert cli("run", "sre2l", "--dire", *both, "--dry-run").code == 0


def test_images_too_small_for_a_network_name_the_key(cli: Cli, bare_home: Path) -> None:
    answer = cli("run", "sre2l", "--set", "squeeze.independent.architecture=vgg-16", "--device", "cpu")
    assert answer.code == 2
    assert "images of digits have 8 here, and the recipe's squeeze.independent is vgg-16" in answer.err


def test_the_check_of_all_vendored_code_tells_every_method(cli: Cli, bare_home: Path) -> None:
    answer = cli("vendor", "--check")
    assert answer.code == 0
    for name in plugins.known("methods"):
        assert f"{name}: not vendored; get it with: dire-plug vendor {name}" in answer.out
    named = cli("vendor", "--check", "sre2l", "dm")
    assert named.code == 2
    assert "vendor sre2l" in named.err
    assert "vendor dm" in named.err


def test_damaged_code_is_told_after_the_state_of_the_others(
    cli: Cli, bare_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find(adapter: object) -> None:
        if getattr(adapter, "name", "") == "cda":
            raise DirePlugError("cda: damaged")

    monkeypatch.setattr("dire_plug.upstream.source.vendor.find_vendored", find)
    answer = cli("vendor", "--check")
    assert answer.code == 2
    assert "sre2l: not vendored" in answer.out
    assert answer.err.endswith("error: cda: damaged\n")


def test_the_extras_that_are_here_are_told(cli: Cli, bare_home: Path) -> None:
    answer = cli("doctor", "--json")
    assert '"extras"' in answer.out
    assert "cluster" in cli("doctor").out


@pytest.mark.parametrize("text", ["SRe2L", "sre2l", "S-Re2L"])
def test_a_method_is_found_whatever_the_case_and_the_punctuation(cli: Cli, bare_home: Path, text: str) -> None:
    answer = cli("run", text, "--dry-run", "--json")
    assert answer.code == 0, answer.err
    assert '"method": "sre2l"' in answer.out


@pytest.mark.parametrize(
    ("text", "name"),
    [("SRe2L++", "sre2l-pp"), ("G_VBSM", "g-vbsm"), ("CVDD", "cv-dd"), ("Infer", "infer"), ("sre3l", "sre3l")],
)
def test_a_title_and_a_name_stand_for_one_method(text: str, name: str) -> None:
    assert plugins.find_method(text) == name


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("SRe2L", "unknown command 'SRe2L' (did you mean 'dire-plug run sre2l'?)"),
        ("run sre2l --lr 0.1", "'--lr'; it is --set recover.flags.lr=NUMBER or --set evaluate.lr=NUMBER"),
        ("compare sre2l --epochs 3", "'--epochs'; it is --set evaluate.epochs=NUMBER"),
        ("run sre2l --gpu 1", "'--gpu'; it is --device cuda:0"),
    ],
)
def test_words_of_the_scripts_are_answered_by_ours(cli: Cli, line: str, says: str) -> None:
    answer = cli(*line.split())
    assert answer.code == 2
    assert says in answer.err


def test_help_is_a_command_too(cli: Cli) -> None:
    assert cli("help").out == cli("--help").out
    assert cli("help", "vendor").out == cli("vendor", "--help").out
