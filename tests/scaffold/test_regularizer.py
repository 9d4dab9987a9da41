"""`dire-plug new regularizer`: a package that works before a line is written."""

from importlib import import_module
from pathlib import Path

import pytest
import torch
from support.cli import Cli
from support.scaffolds import files_of, install_package, lint, run_tests
from support.small_run import only_run

from dire_plug.api.term import RealEmbeddings, arrange, prepare_real
from dire_plug.cli import main
from dire_plug.files import read_json
from dire_plug.scaffold.package import LONGEST, new_regularizer


def test_the_package_is_small_and_the_next_commands_are_said(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = cli("new", "regularizer", "my-term")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out == (
        f"made: {tmp_path}/dire-plug-my-term\nnext: pip install --no-deps -e dire-plug-my-term\n"
        "      dire-plug run sre2l --regularizer my-term\n"
    )
    assert files_of(tmp_path) == [
        "dire-plug-my-term/README.md",
        "dire-plug-my-term/dire_plug_my_term/__init__.py",
        "dire-plug-my-term/dire_plug_my_term/term.py",
        "dire-plug-my-term/pyproject.toml",
        "dire-plug-my-term/tests/test_term.py",
    ]


@pytest.mark.parametrize("name", ["x", "x" * LONGEST])
def test_what_is_written_passes_the_linter_whatever_the_names_length(tmp_path: Path, name: str) -> None:
    assert lint(new_regularizer(name, into=tmp_path)) == ""


def test_its_own_tests_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = new_regularizer("tested-term", into=tmp_path)
    install_package(folder, monkeypatch)
    assert len(run_tests(folder / "tests" / "test_term.py")) == 4


def test_its_own_tests_notice_another_formula(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = new_regularizer("other-term", into=tmp_path)
    file = folder / "dire_plug_other_term" / "term.py"
    file.write_text(file.read_text().replace("/ size.", "/ (size + 1)."))
    install_package(folder, monkeypatch)
    with pytest.raises(AssertionError):
        run_tests(folder / "tests" / "test_term.py")


def test_once_installed_a_run_adds_the_term(
    cli: Cli, home: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_package(new_regularizer("added-term", into=tmp_path), monkeypatch)
    answer = cli("run", "sre2l", "--recipe", recipe, "--engine", "native", "--regularizer", "added-term")
    assert answer.code == 0, answer.err
    losses = read_json(next(only_run(home).rglob("losses.json")))
    assert "added-term" in str(losses)


@pytest.mark.parametrize("name", ["My-term", "1term", "my_term", "my--term", "-", "a/b", "", "x" * (LONGEST + 1)])
def test_a_name_that_cannot_be_a_plugins_is_refused(cli: Cli, tmp_path: Path, name: str) -> None:
    answer = cli("new", "regularizer", "--into", tmp_path, "--", name)
    assert answer.code == 2
    assert answer.err.startswith(f"error: the name '{name}' can't be a plugin's: small letters, digits and single '-'")
    assert files_of(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("dire", "is taken among regularizers, by dire_plug.regularizers.dire:DiRe; choose another"),
        ("control", "is reserved; choose another"),
        ("upstream", "is reserved; choose another"),
    ],
)
def test_a_name_that_is_taken_is_refused(cli: Cli, tmp_path: Path, name: str, why: str) -> None:
    answer = cli("new", "regularizer", name, "--into", tmp_path)
    assert (answer.code, answer.err) == (2, f"error: the name '{name}' {why}\n")
    assert files_of(tmp_path) == []


def test_a_folder_that_is_there_is_left_alone(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "dire-plug-my-term").mkdir()
    answer = cli("new", "regularizer", "my-term", "--into", tmp_path)
    assert answer.code == 2
    assert f"{tmp_path}/dire-plug-my-term: exists already; move it away, or choose another folder" in answer.err
    assert files_of(tmp_path) == []


def test_what_cannot_be_written_whole_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, content: bytes | str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dire_plug.scaffold.package.write_atomically", refuse)
    with pytest.raises(SystemExit) as end:
        main(["new", "regularizer", "my-term", "--into", str(tmp_path)])
    assert end.value.code == 2
    assert list(tmp_path.iterdir()) == []


def test_the_term_is_lowest_where_images_differ_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = new_regularizer("lower-term", into=tmp_path)
    install_package(folder, monkeypatch)
    module = import_module("dire_plug_lower_term.term")
    term, real = module.Term(module.TermSettings()), prepare_real(RealEmbeddings(torch.ones(1, 2), torch.tensor([0])))
    labels = torch.tensor([0, 0])
    apart, alike = torch.tensor([[1.0, 0], [-1, 0]]), torch.tensor([[1.0, 0], [1, 0]])
    assert float(term.value(arrange(apart, labels, real))) == -1
    assert float(term.value(arrange(alike, labels, real))) == 0
