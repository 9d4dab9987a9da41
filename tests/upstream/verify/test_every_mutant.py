"""Mutants under one script of every method: `results/verify-mutants.md` says which check finds each.

`PYTHONPATH=tests python tests/upstream/verify/test_every_mutant.py [METHOD…]` prints rows of that table.
"""

import os
import sys
import tempfile
from pathlib import Path

import pytest
from support.mutants import BRIDGES, PATCHES, change_patch
from support.upstreams import vendor_or_skip

from dire_plug.errors import DirePlugError
from dire_plug.plugins import known, load_adapter
from dire_plug.types import Adapter
from dire_plug.upstream.source.patching import REPAIR, make_patch, read_patch
from dire_plug.upstream.source.vendor import require_vendored, unpatched_copy, vendor
from dire_plug.upstream.verify.verify import ScriptVerdict, verify

TESTS = Path(__file__).parents[2]
RESULTS = TESTS.parent / "results" / "verify-mutants.md"
MUTANTS = (*BRIDGES, *PATCHES)


def judge(adapter: Adapter, mutant: str, folder: Path, patch: pytest.MonkeyPatch) -> str:
    """Return the checks that find a mutant under a method's first script that has the thing, or that none has it."""
    (path,) = (one for one in adapter.patches().glob("*.patch") if one.name != REPAIR)
    bridge_patch = read_patch(path)
    published = unpatched_copy(adapter, require_vendored(adapter), folder / "published")
    if mutant == "names" and "names=" not in path.read_text():
        return "– no names"
    for script in adapter.scripts:
        changed = None
        if mutant in PATCHES:
            changed = change_patch(bridge_patch, adapter.scripts[script].path, published, mutant)
        elif mutant in ("rates", "update", "real") or len(adapter.verify_case(script).teachers) > 1:
            changed = {}
        if changed is not None:
            break
    else:
        return {"clipping": "– no clipping", "scaler": "– no scaler"}.get(mutant, "– one network")
    if mutant in BRIDGES:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS / "support" / "mutated"), str(TESTS)]))
        patch.setenv("DIRE_PLUG_MUTANT", mutant)
    else:
        (patches := folder / "patches").mkdir()
        for one in adapter.patches().glob("*.patch"):
            (patches / one.name).write_bytes(one.read_bytes())
        contents = {name: (published / name).read_bytes() for name in changed}
        (patches / path.name).write_text(make_patch(contents, changed, commit=bridge_patch.commit))
        patch.setattr(type(adapter), "patches", lambda self: patches)
        vendor(adapter)
    where = "" if script == next(iter(adapter.scripts)) else f" ({script})"
    try:
        (verdict,) = verify(adapter, scripts=[script], workdir=folder / "work")
    except DirePlugError:
        return f"error{where}"
    return describe(verdict) + where


def describe(verdict: ScriptVerdict) -> str:
    """Return the checks that failed, else what the verdict says that it can't see, else that nothing was found."""
    return ", ".join(verdict.problems) or ("said" if any("Scaler" in one for one in verdict.unseen) else "not found")


def read_table() -> dict[tuple[str, str], str]:
    """Return (method, mutant) → cell."""
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in RESULTS.read_text().splitlines()]
    head, _, *body = [row for row in rows if len(row) > 1]
    return {(row[0], mutant): cell for row in body for mutant, cell in zip(head[1:], row[1:], strict=True)}


@pytest.mark.slow
@pytest.mark.upstream
@pytest.mark.every_script
@pytest.mark.parametrize(("method", "mutant"), read_table() if RESULTS.exists() else [])
def test_a_mutant_is_found_by_the_check_that_the_table_names(
    method: str, mutant: str, bare_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = load_adapter(method)
    vendor_or_skip(adapter)
    assert judge(adapter, mutant, tmp_path, monkeypatch) == read_table()[method, mutant]


if __name__ == "__main__":
    for name in sys.argv[1:] or known("methods"):
        cells = []
        for one in MUTANTS:
            with tempfile.TemporaryDirectory() as place, pytest.MonkeyPatch.context() as context:
                context.setattr(sys, "stdout", sys.stderr)
                vendor(shown := load_adapter(name))
                cells.append(judge(shown, one, Path(place), context))
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
