"""The home folder: where runs lie, and what they share, of a checkout, of DIRE_PLUG_HOME and of an installed wheel."""

from pathlib import Path

import platformdirs
import pytest
from support.cli import Cli

from dire_plug import home, ui
from dire_plug.store.cleaning import register


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of somebody who has installed a wheel."""
    monkeypatch.delenv("DIRE_PLUG_HOME", raising=False)
    monkeypatch.setattr(home, "checkout", lambda: None)
    monkeypatch.setattr(platformdirs, "user_data_dir", lambda name: str(tmp_path / "user" / name))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def test_an_installed_wheel_keeps_its_runs_in_the_working_folder(wheel: Path) -> None:
    assert home.runs() == wheel / "dire-plug"
    user = wheel.parent / "user" / "dire-plug"
    assert (home.store(), home.downloads(), home.third_party()) == tuple(
        user / name for name in ("store", "downloads", "third_party")
    )


def test_a_named_home_holds_the_runs_too(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIRE_PLUG_HOME", str(wheel / "mine"))
    assert home.runs() == wheel / "mine" / "runs"


def test_the_runs_of_a_checkout_lie_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DIRE_PLUG_HOME", raising=False)
    root = home.checkout()
    assert root is not None
    assert home.runs() == root / "runs"


def test_the_first_run_in_a_working_folder_says_where_runs_lie(wheel: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ui.configure()
    for _ in range(2):
        register(home.store(), home.runs(), [])
        ui.configure()
    assert capfd.readouterr().err.count(f"runs lie in {wheel / 'dire-plug'}") == 1
    register(home.store(), wheel / "elsewhere", [])
    assert not capfd.readouterr().err


def test_the_home_of_a_user_who_does_not_exist_is_an_error(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIRE_PLUG_HOME", "~no-one/here")
    answer = cli("list", "runs")
    assert (answer.code, answer.out) == (2, "")
    assert "DIRE_PLUG_HOME: ~no-one/here: there is no user of this name, whose home '~' would be" in answer.err
