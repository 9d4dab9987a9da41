"""Installs what `dire-plug new` wrote, without pip, lints it, and runs the tests that came with it."""

import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from support.cli import install
from support.paths import ROOT
from support.third_party_plugin import entry_points_text, offer

VALUES = {
    "LICENCE": '"none"',
    "CLASSES": "10",
    "SIZE": "8",
    "MEAN": "(0.5, 0.5, 0.5)",
    "STD": "(0.25, 0.25, 0.25)",
    "ARCHITECTURE": '"resnet-18"',
    "STEM": '"small"',
    "CHECKPOINT": '"bare"',
    "BATCHES": "1",
    "TEACHER_FLAG": '"weights"',
    "IMAGES_FLAG": '"out"',
    "PASS_FLAG": '"round"',
    "STEPS_FLAG": '"steps"',
    "FILE_NAME": '"{label}-{image}.png"',
}
"""What a written adapter of the toy of examples/toy-net lacks."""


def install_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a written package known, here and in child processes, as an editable installation would."""
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    site = folder.parent / f"site-{folder.name}"
    offer(site, project["name"].replace("-", "_"), entry_points_text(project["entry-points"]))
    for place in (folder, site):
        install(place, monkeypatch)
    forget(folder)


def forget(folder: Path) -> None:
    """Forget what was imported of a package, as a new process would."""
    module = folder.name.replace("-", "_")
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        del sys.modules[name]


def run_tests(file: Path) -> list[str]:
    """Run the test functions of a file that need no fixture; return their names."""
    tests = {name: value for name, value in runpy.run_path(str(file)).items() if name.startswith("test_")}
    for test in tests.values():
        test()
    return list(tests)


def lint(folder: Path) -> str:
    """Return what ruff, with this project's rules, says of a package."""
    settings = ["--config", str(ROOT / "pyproject.toml"), "--no-cache"]
    lines = (["check", "--quiet", *settings], ["format", "--quiet", "--diff", *settings])
    done = [
        subprocess.run([sys.executable, "-m", "ruff", *line, "."], cwd=folder, capture_output=True, text=True)
        for line in lines
    ]
    return "".join(one.stdout + one.stderr for one in done)


def files_of(folder: Path) -> list[str]:
    """Return the paths of a folder's files below it, sorted."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def fill(folder: Path, values: dict[str, str]) -> Path:
    """Put values into the constants of a written adapter; return its file."""
    (file,) = folder.glob("*/method.py")
    text = file.read_text()
    for name, value in values.items():
        text, count = re.subn(rf"^({name}: .* = )\S+(?=  #)", lambda found: found[1] + value, text, flags=re.MULTILINE)  # noqa: B023
        assert count == 1
    file.write_text(text)
    forget(folder)
    return file


def masked(text: str) -> list[str]:
    """Return printed lines without what differs between machines: figures, hashes of runs, rules, progress."""
    lines = (line for line in text.splitlines() if not re.search(r"(^|: )\d+/\d+|: done in \d+ s", line))
    lines = (re.sub(r"\b[0-9a-f]{8,}\b", "#", line) for line in lines)
    lines = (re.sub(r"[+−-]?\d+(\.\d+)?", "#", line) for line in lines)
    lines = (re.sub(r"[\s─━┏┓┗┛┳┻╇╋┡┩└┘┴┬┼├┤]+", " ", line).strip() for line in lines)
    return [line for line in lines if line]
