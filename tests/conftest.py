"""What the tests of the command line and of whole runs share."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cli import Cli, install
from support.small_run import Answer, only_run, write_recipe
from support.stub_run import store_with_networks
from support.third_party_plugin import ThirdParty, make_third_party

from dire_plug.cli import main
from dire_plug.pipeline import Request, run_arm


@pytest.fixture(autouse=True, scope="session")
def no_config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the config file of whoever runs the tests out of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIRE_PLUG_CONFIG", str(tmp_path_factory.mktemp("config") / "none.yaml"))
        yield


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
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the networks of `stub_run`, which tests copy, so that each doesn't train its own; never changed."""
    return store_with_networks(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, recipe: Path) -> Path:
    """A home folder with one finished baseline run by the native engine, and so with its networks; never changed."""
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
    """A home folder of the test's own, with the tiny recipe's networks and what real images are in them, but no run."""
    for kind in ("network", "embeddings", "radii", "reference"):
        shutil.copytree(finished / "store" / kind, bare_home / "store" / kind)
    return bare_home


@pytest.fixture
def finished_home(bare_home: Path, finished: Path) -> Path:
    """A home folder of the test's own, with the finished baseline run."""
    shutil.copytree(finished, bare_home)
    return bare_home


@pytest.fixture(scope="session")
def made_third_party(tmp_path_factory: pytest.TempPathFactory) -> ThirdParty:
    """A third-party package and its method's repository; nobody knows of it yet."""
    return make_third_party(tmp_path_factory.mktemp("toy_net_plugin"))


@pytest.fixture
def third_party(made_third_party: ThirdParty, monkeypatch: pytest.MonkeyPatch) -> ThirdParty:
    """The third-party package, installed for this process and its children."""
    install(made_third_party.site, monkeypatch)
    return made_third_party
