"""A third-party plugin that isn't what it should be is named, and so is a method without a loop of ours."""

import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
from support.third_party_plugin import offer

from dire_plug.errors import DirePlugError, PluginError
from dire_plug.native import load_native
from dire_plug.plugins import known, load, load_adapter, settings_model


class BadAdapter:
    """Cannot be made."""

    def __init__(self) -> None:
        raise RuntimeError("no licence")


class NeedsMore:
    """Cannot be made without an argument."""

    def __init__(self, root: Path) -> None: ...


class Bare:
    """A regularizer without settings."""


class Odd:
    """A regularizer whose settings are no model."""

    settings_model = dict


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the classes above known, as one package's."""
    module = ModuleType("odd_plugins")
    for one in (BadAdapter, NeedsMore, Bare, Odd):
        setattr(module, one.__name__, one)
    monkeypatch.setitem(sys.modules, "odd_plugins", module)
    methods = "bad = odd_plugins:BadAdapter\nmore = odd_plugins:NeedsMore\ngone = odd_plugins:Gone\n"
    terms = "bare = odd_plugins:Bare\nodd = odd_plugins:Odd\n"
    offer(tmp_path, "odd", f"[dire_plug.methods]\n{methods}[dire_plug.regularizers]\n{terms}")
    monkeypatch.syspath_prepend(str(tmp_path))


def test_a_package_that_comes_or_goes_is_seen_at_once(tmp_path: Path) -> None:
    assert "late" not in known("regularizers")
    offer(tmp_path, "late", "[dire_plug.regularizers]\nlate = odd_plugins:Bare\n")
    assert "late" in known("regularizers")
    shutil.rmtree(next(tmp_path.glob("late*")))
    assert "late" not in known("regularizers")


@pytest.mark.parametrize(
    ("name", "reason"), [("bad", r"RuntimeError\('no licence'\)"), ("more", "missing 1 required positional argument")]
)
def test_an_adapter_that_cannot_be_made_is_named(name: str, reason: str) -> None:
    with pytest.raises(
        PluginError, match=rf"plugin '{name}' \(odd_plugins:\w+\): its adapter cannot be made: .*{reason}"
    ):
        load_adapter(name)


@pytest.mark.parametrize(("name", "found"), [("bare", "None"), ("odd", "<class 'dict'>")])
def test_a_regularizer_without_a_model_of_its_settings_is_named(name: str, found: str) -> None:
    with pytest.raises(PluginError, match=rf"plugin '{name}' .*must have `settings_model`.*it has {found}$"):
        settings_model(name)


def test_an_entry_point_that_leads_nowhere_is_named() -> None:
    with pytest.raises(PluginError, match=r"plugin 'gone' \(odd_plugins:Gone\) cannot be imported: "):
        load("methods", "gone")


@pytest.mark.parametrize("method", ["g-vbsm", "no.such", ""])
def test_a_method_without_a_native_loop_is_refused(method: str) -> None:
    with pytest.raises(DirePlugError, match=rf"^{method}: there is no native engine for it.*there is one for sre2l"):
        load_native(method)
