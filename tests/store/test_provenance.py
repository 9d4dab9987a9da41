"""Provenance: which code ran, told by the checkout's commit and by whether it was changed."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.toy_upstream import git

from dire_plug.store import provenance
from dire_plug.store.provenance import Code, code


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A checkout with one commit, in the place of this one."""
    folder = tmp_path / "checkout"
    (folder / "dire_plug").mkdir(parents=True)
    (folder / "dire_plug" / "term.py").write_text("SIGN = 1\n")
    (folder / "README.md").write_text("about\n")
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=all")
    monkeypatch.setattr(provenance, "checkout", lambda: folder)
    code.cache_clear()
    yield folder
    code.cache_clear()


def test_the_commit_of_the_checkout_is_recorded(root: Path) -> None:
    commit = git(root, "rev-parse", "HEAD")
    assert code() == Code(commit, changed=False)
    assert str(code()) == f"commit {commit}"


@pytest.mark.parametrize("name", ["term.py", "new.py"])
def test_a_changed_or_new_module_is_recorded(root: Path, name: str) -> None:
    (root / "dire_plug" / name).write_text("SIGN = -1\n")
    assert code().changed is True
    assert str(code()).endswith(", changed since")


def test_what_does_not_decide_a_run_is_no_change(root: Path) -> None:
    (root / "README.md").write_text("more\n")
    (root / "runs").mkdir()
    (root / "runs" / "metrics.json").write_text("{}")
    assert code().changed is False


def test_the_variables_of_a_git_hook_lead_nowhere_else(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = git(root, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(root / "nowhere"))
    assert code().commit == commit


def test_without_a_commit_nothing_is_claimed(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shutil.rmtree(root / ".git")
    assert code() == Code(None, None)
    assert str(code()) == "no checkout of git"
    code.cache_clear()
    monkeypatch.setattr(provenance, "checkout", lambda: None)
    assert code() == Code(None, None)
    code.cache_clear()
    monkeypatch.setattr(provenance, "checkout", lambda: root)
    (root / ".git").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert code() == Code(None, None)
