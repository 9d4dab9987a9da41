"""A plugin's constants in a file beside its module."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

from dire_plug.api import method, term
from dire_plug.api.term import data
from dire_plug.errors import DirePlugError


@pytest.fixture
def owner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type:
    """A class of a module in `tmp_path` that names two files, of which one is there."""
    module = ModuleType("a_plugin")
    module.__file__ = str(tmp_path / "a_plugin.py")
    monkeypatch.setitem(sys.modules, "a_plugin", module)
    (tmp_path / "constants.yaml").write_text("rate: 0.5\n")
    (tmp_path / "other.yaml").write_text("rate: 1.5\n")
    return type("Plugin", (), {"__module__": "a_plugin", "DATA": ("constants.yaml", "gone.yaml")})


def test_a_file_that_the_class_names_is_read(owner: type) -> None:
    assert data(owner, "constants.yaml") == {"rate": 0.5}
    assert method.data is term.data


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("other.yaml", r"Plugin\.DATA doesn't name 'other\.yaml'.*; it names constants\.yaml, gone\.yaml"),
        ("constant.yaml", r"did you mean 'constants\.yaml'"),
        ("gone.yaml", r"gone\.yaml: the data of Plugin can't be read: "),
    ],
)
def test_what_the_class_does_not_name_or_is_not_there_is_refused(owner: type, name: str, says: str) -> None:
    with pytest.raises(DirePlugError, match=says):
        data(owner, name)
