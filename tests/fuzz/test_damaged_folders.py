"""Run folders and stores in which anything is damaged are shown, made again, or refused with a message."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.fuzzing import change, check_foreseen, damage, tries, values
from support.small_run import forget, only_run


def damaged(data: st.DataObject, path: Path) -> None:
    """Damage one file: another tree of values in JSON or YAML, other bytes in any, or none at all."""
    content = path.read_bytes()
    kind = data.draw(st.sampled_from(["tree", "tree", "tree", "bytes", "bytes", "remove", "folder", "value"]))
    # the file may be a link into the store, which is another place to damage
    path.unlink()
    if kind == "tree" and path.suffix == ".json":
        try:
            tree: Any = json.loads(content)
        except ValueError:
            tree = {}
        change(data.draw, tree)
        path.write_text(json.dumps(tree, default=str), errors="surrogatepass")
    elif kind == "value" and path.suffix == ".json":
        path.write_text(json.dumps(data.draw(values), default=str), errors="surrogatepass")
    elif kind == "folder":
        path.mkdir()
    elif kind != "remove":
        path.write_bytes(damage(data.draw, content))


@tries(1000, few=6)
@given(data=st.data())
def test_whatever_is_damaged_is_shown_made_again_or_refused(
    finished: Path, recipe: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    home = tmp_path_factory.getbasetemp() / "damaged"
    shutil.rmtree(home, ignore_errors=True)
    shutil.copytree(finished, home)
    forget()
    run = only_run(home)
    root = data.draw(st.sampled_from([run, run, home / "store"]))
    files = sorted(path for path in root.rglob("*") if path.is_file())
    # small files have all the fields; of each directory of images one says as much as another
    path = data.draw(st.sampled_from([file for file in files if file.suffix != ".jpg" or file == files[0]]))
    os.chmod(path.parent, 0o755)
    os.chmod(path, 0o644)
    damaged(data, path)
    out = home / "report.html"
    command = data.draw(
        st.sampled_from(
            [
                ["show", run.name],
                ["list", "runs"],
                ["list", "artefacts"],
                ["report", run.name, "--to", str(out)],
                ["run", "sre2l", "--recipe", str(recipe), "--engine", "native"],
                ["measure", str(run)],
                ["export", run.name, "--to", str(home / "out.tar")],
                ["clean"],
                ["jobs"],
            ]
        )
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIRE_PLUG_HOME", str(home))
        check_foreseen(*command)
