"""No line of upstream's code stands in this repository: its files are compared, where they can be reached."""

import subprocess
from pathlib import Path

import pytest
from support.paths import ROOT
from support.upstreams import fetch_rded_or_skip, vendor_or_skip

from dire_plug import plugins
from dire_plug.upstream.source.vendor import unpatched_copy, vendored_folder

SHORT = 40
"""Lines of fewer characters, blanks aside, are nobody's, and imports of any length."""
IDIOMS = ("interpolation=InterpolationMode.", "class")
"""Beginnings, without blanks, of lines that torch's own interfaces leave one way to write: nobody's either."""


def read_lines(path: Path) -> dict[str, str]:
    """Return line without blanks → line, of those that are long enough to be somebody's."""
    lines = {"".join(line.split()): line.strip() for line in path.read_text(errors="replace").splitlines()}
    return {
        bare: line
        for bare, line in lines.items()
        if len(bare) >= SHORT and not bare.startswith(("from", "import", *IDIOMS))
    }


@pytest.mark.upstream
@pytest.mark.parametrize("name", plugins.known("methods"))
def test_no_line_of_a_methods_code_is_in_this_repository(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIRE_PLUG_HOME", str(tmp_path / "home"))
    adapter = plugins.load_adapter(name)
    vendor_or_skip(adapter)
    assert find_lines_of(unpatched_copy(adapter, vendored_folder(adapter), tmp_path / "published")) == []


@pytest.mark.upstream
def test_no_line_of_rdeds_code_is_in_this_repository(tmp_path: Path) -> None:
    assert find_lines_of(fetch_rded_or_skip(tmp_path / "published")) == []


def find_lines_of(tree: Path) -> list[str]:
    """Return the lines of this repository that stand in a published tree, too."""
    published = {line for path in tree.rglob("*.py") for line in read_lines(path)}
    assert len(published) > 20
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    ours = [ROOT / path for path in tracked.split("\0") if Path(path).suffix in (".py", ".md", ".patch", ".template")]
    return [f"{path}: {line}" for path in ours for bare, line in read_lines(path).items() if bare in published]
