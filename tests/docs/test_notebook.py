"""examples/quickstart.ipynb runs as it is, and holds no output and no path of a machine."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
from support.paths import ROOT

CELLS: list[dict[str, Any]] = json.loads((ROOT / "examples" / "quickstart.ipynb").read_text())["cells"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]


def test_the_notebook_has_no_output_and_names_no_folder_of_a_machine() -> None:
    assert [cell for cell in CELLS if cell.get("outputs") or cell.get("execution_count")] == []
    assert re.findall(r"/(?:home|root|work|tmp|Users)/", json.dumps(CELLS)) == []


def test_every_cell_of_the_notebook_runs_and_shows_something(bare_home: Path) -> None:
    pytest.importorskip("pandas")
    names: dict[str, Any] = {}
    shown = []
    for text in CODE:
        # as a notebook does: the value of a cell's last expression is shown
        *before, last = ast.parse(text).body
        exec(compile(ast.Module(before, []), "cell", "exec"), names)
        if isinstance(last, ast.Expr):
            shown.append(eval(compile(ast.Expression(last.value), "cell", "eval"), names))
        else:
            exec(compile(ast.Module([last], []), "cell", "exec"), names)
    run, values, images, picture, comparison, frame, gap, strips, _ = shown
    assert "last %" in run._repr_html_()
    assert values[2].startswith("dire-0-")
    assert images[0] == (20, 3, 8, 8)
    assert [one._repr_png_()[:4] for one in (picture, strips)] == [b"\x89PNG"] * 2
    assert list(comparison.arms) == ["baseline", "control", "dire", "random"]
    assert frame.shape == (4, 3)
    assert gap["n"] == 2
