"""docs/reference/dire.md: its example runs, and its settings are those that there are."""

import re
from typing import Any

import pytest
import torch
from support.paths import ROOT

from dire_plug.regularizers.dire import DiReSettings

TEXT = (ROOT / "docs" / "reference" / "dire.md").read_text()


def test_the_example_runs_and_lowers_the_term(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(example, "docs/reference/dire.md", "exec"), names)
    assert len(names["losses"]) == 50
    assert names["losses"][-1] < names["losses"][0]
    assert torch.isfinite(names["embeddings"]).all()
    assert re.fullmatch(r"\d+\.\d{3} → \d+\.\d{3}\n", capsys.readouterr().out)


def test_the_table_of_settings_names_each_with_its_default() -> None:
    section = TEXT.split("## Settings")[1].split("\n## ")[0]
    table = dict(re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", section, re.MULTILINE))
    shown = {name: value if isinstance(value, tuple) else str(value) for name, value in DiReSettings()}
    assert table == {name: ", ".join(value) if isinstance(value, tuple) else value for name, value in shown.items()}
