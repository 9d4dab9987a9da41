"""What a command imports: heavy packages take seconds of CPU and hundreds of megabytes, whatever it then does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = {"torch", "torchvision", "sklearn", "optuna"}
PROGRAM = """import sys
from dire_plug.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    print(end.code, *sys.modules, file=sys.stderr)
"""


def imports(*arguments: object, home: Path) -> tuple[int, set[str]]:
    """Return a command's exit code, and which heavy packages it imported."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, arguments)],
        env={**os.environ, "DIRE_PLUG_HOME": str(home)},
        capture_output=True,
        text=True,
        check=True,
    )
    code, *modules = done.stderr.splitlines()[-1].split()
    return int(code), HEAVY & set(modules)


@pytest.mark.parametrize("line", ["jobs", "jobs --all", "clean", "list methods", "list recipes", "list plugins"])
def test_what_reads_files_alone_imports_nothing_heavy(tmp_path: Path, line: str) -> None:
    assert imports(*line.split(), home=tmp_path) == (0, set())


@pytest.mark.parametrize(
    "line",
    [
        "rnu sre2l",
        "run sre3l",
        "compare sre2l --recipe quik",
        "compare-methods sre2l,sre3l",
        "tune sre3l",
        "verify sre3l",
        "vendor sre3l",
        "new recipe mine --from sre3l/quick",
    ],
)
def test_an_unknown_name_is_told_before_anything_heavy_is_imported(tmp_path: Path, line: str) -> None:
    assert imports(*line.split(), home=tmp_path) == (2, set())


def test_a_run_is_listed_shown_and_reported_without_torch(finished: Path, baseline: Path, tmp_path: Path) -> None:
    assert imports("list", "runs", home=finished) == (0, set())
    assert imports("list", "artefacts", home=finished) == (0, set())
    assert imports("show", baseline, home=finished) == (0, set())
    # where the store lacks the teacher, nothing is embedded
    assert imports("report", baseline, "--to", tmp_path / "report.html", home=tmp_path) == (0, set())


def test_a_dry_run_imports_no_library_that_its_recipe_does_not_need(tmp_path: Path) -> None:
    assert imports("run", "sre2l", "--dry-run", home=tmp_path) == (0, {"torch"})
