"""What the tests of the command line and of whole runs share."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from stranger_package import Stranger, make_stranger
from tiny import Answer, only_run, write_recipe

from dire_plug.cli import main
from dire_plug.pipeline import Request, run_arm

Cli = Callable[..., Answer]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Return a function that calls the command line in this process; it never ends in a traceback."""
    monkeypatch.setenv("COLUMNS", "300")

    def call(*arguments: object) -> Answer:
        capfd.readouterr()
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        assert "Traceback" not in captured.out + captured.err
        assert isinstance(end.value.code, int)
        return Answer(end.value.code, captured.out, captured.err)

    return call


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny recipe's file."""
    return write_recipe(tmp_path_factory.mktemp("recipes") / "tiny.yaml")


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, recipe: Path) -> Path:
    """A home folder with one finished baseline run by the native engine, and so with its teachers; never changed."""
    home = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIRE_PLUG_HOME", str(home))
        run_arm(Request("sre2l", recipe=str(recipe), engine="native"))
    return home


@pytest.fixture(scope="session")
def baseline(finished: Path) -> Path:
    """The folder of that finished run."""
    return only_run(finished)


@pytest.fixture
def bare_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder of the test's own that doesn't exist yet."""
    home = tmp_path / "home"
    monkeypatch.setenv("DIRE_PLUG_HOME", str(home))
    return home


@pytest.fixture
def home(bare_home: Path, finished: Path) -> Path:
    """A home folder of the test's own, with the tiny recipe's teachers but no run."""
    shutil.copytree(finished / "store", bare_home / "store")
    return bare_home


@pytest.fixture(scope="session")
def made_stranger(tmp_path_factory: pytest.TempPathFactory) -> Stranger:
    """A stranger's package and its method's repository; nobody knows of it yet."""
    return make_stranger(tmp_path_factory.mktemp("stranger"))


@pytest.fixture
def stranger(made_stranger: Stranger, monkeypatch: pytest.MonkeyPatch) -> Stranger:
    """The stranger's package, installed for this process and its children."""
    install(made_stranger.site, monkeypatch)
    return made_stranger


def install(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the packages in `site` importable, and known, here and in child processes."""
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH", "")])))
