"""The verdict on a patch."""

from pathlib import Path

import pytest
from upstreams import verified

from dire_plug.adapters.sre2l import SRe2L
from dire_plug.errors import DirePlugError
from dire_plug.upstream.trial import Evidence
from dire_plug.upstream.verify import first_difference, judge, verify

SAME = Evidence((("a",), ("b",)), {"x": "1"})
OTHER_STEP = Evidence((("a",), ("c",)), {"x": "1"})
OTHER_FILE = Evidence((("a",), ("b",)), {"x": "2"})


@pytest.mark.parametrize(
    ("again", "patched", "probed", "verdict", "term", "holds"),
    [
        (SAME, SAME, OTHER_STEP, "inert", "differs", True),
        (SAME, OTHER_STEP, OTHER_STEP, "NOT inert: step 1 differs", "differs", False),
        (SAME, OTHER_FILE, OTHER_STEP, "NOT inert: file x differs", "differs", False),
        (SAME, SAME, SAME, "inert", "NO effect", False),
        (OTHER_STEP, SAME, OTHER_STEP, "undecidable: two unpatched runs differ", "differs", False),
        (OTHER_FILE, OTHER_FILE, OTHER_STEP, "undecidable: two unpatched runs differ", "differs", False),
    ],
)
def test_the_verdict_follows_from_the_four_runs(
    again: Evidence, patched: Evidence, probed: Evidence, verdict: str, term: str, holds: bool
) -> None:
    found = judge("synth", published=SAME, again=again, patched=patched, probed=probed)
    row = found.row()
    assert (row[1], row[-1]) == (verdict, term)
    assert found.holds is holds
    assert found.undecidable is verdict.startswith("undecidable")


def test_the_first_difference_is_named() -> None:
    assert first_difference(SAME, SAME) == ""
    assert first_difference(SAME, OTHER_STEP) == "step 1"
    assert first_difference(SAME, OTHER_FILE) == "file x"
    assert first_difference(SAME, Evidence(SAME.steps[:1], SAME.files)) == "the number of steps (2, 1)"


def test_runs_that_left_nothing_prove_nothing() -> None:
    empty = Evidence((), {})
    with pytest.raises(DirePlugError, match="did 0 steps and saved 0 files; nothing can be compared"):
        judge("synth", published=empty, again=empty, patched=empty, probed=SAME)


def test_an_unknown_script_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DirePlugError, match=r"sre2l has no script 'cifer' \(did you mean 'cifar'\?\); it has cifar"):
        verify(SRe2L(), scripts=["cifer"], workdir=tmp_path)


@pytest.mark.slow
@pytest.mark.upstream
@pytest.mark.parametrize(
    "script", ["cifar", *(pytest.param(name, marks=pytest.mark.every_script) for name in ("tiny", "imagenet"))]
)
def test_the_patch_of_sre2l_is_inert_and_reaches_the_loss(
    script: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIRE_PLUG_HOME", str(tmp_path / "home"))
    verdict = verified(SRe2L(), script, tmp_path)
    assert (verdict.steps, verdict.files) == (3, 10)
