"""Patches: what they may hold, and that applying one does what it says or fails."""

import ast
import subprocess
from pathlib import Path

import pytest
from support import toy_upstream
from support.toy_upstream import INSERTIONS, SCRIPT, SYNTH

from dire_plug.errors import DirePlugError
from dire_plug.upstream.source.patching import (
    apply_patch,
    check_rules,
    make_patch,
    patch_digest,
    read_patch,
    remake,
    remove_patch,
)

COMMIT = "a" * 40


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    path = tmp_path / "tree" / SCRIPT
    path.parent.mkdir(parents=True)
    path.write_text(SYNTH)
    return tmp_path / "tree"


@pytest.fixture
def patch_path(tmp_path: Path) -> Path:
    path = tmp_path / "toy.patch"
    path.write_text(make_patch({SCRIPT: SYNTH.encode()}, INSERTIONS, commit=COMMIT))
    return path


def write_hunk(folder: Path, body: str, heading: str = "") -> Path:
    path = folder / "one.patch"
    count = len(body.splitlines())
    header = f"commit: {COMMIT}\nfile: {'b' * 40} {'c' * 40} f.py\n\n"
    hunk = f"@@ -3,0 +4,{count} @@{heading}\n{body}\n"
    path.write_text(f"{header}diff --git a/f.py b/f.py\n--- a/f.py\n+++ b/f.py\n{hunk}")
    return path


def test_every_inserted_line_stands_where_the_patch_says(tree: Path, patch_path: Path) -> None:
    apply_patch(tree, read_patch(patch_path))
    published = SYNTH.splitlines()
    shift = 0
    lines = (tree / SCRIPT).read_text().splitlines()
    for after, inserted in INSERTIONS[SCRIPT].items():
        assert lines[after + shift - 1] == published[after - 1]
        assert lines[after + shift] == inserted[0]
        shift += 1
    assert len(lines) == len(published) + shift
    ast.parse("\n".join(lines))


def test_a_patch_takes_no_upstream_line_along(patch_path: Path) -> None:
    diff = patch_path.read_text().partition("diff --git")[2].splitlines()[1:]
    published = {line.strip() for line in SYNTH.splitlines() if line.strip()}
    assert published.isdisjoint(line.lstrip("+").strip() for line in diff)


def test_a_file_that_drifted_by_a_line_is_refused_with_both_hashes(tree: Path, patch_path: Path) -> None:
    patch = read_patch(patch_path)
    drifted = "# a line more\n" + SYNTH
    (tree / SCRIPT).write_text(drifted)
    with pytest.raises(DirePlugError, match=rf"synth\.py: before .*{patch.files[0].before}, but has [0-9a-f]{{40}}"):
        apply_patch(tree, patch)
    assert (tree / SCRIPT).read_text() == drifted


def test_a_patch_is_not_applied_a_second_time(tree: Path, patch_path: Path) -> None:
    apply_patch(tree, read_patch(patch_path))
    once = (tree / SCRIPT).read_text()
    with pytest.raises(DirePlugError, match="must have the blob hash"):
        apply_patch(tree, read_patch(patch_path))
    assert (tree / SCRIPT).read_text() == once


def test_a_patch_applies_inside_another_repository(tree: Path, patch_path: Path) -> None:
    toy_upstream.git(tree.parent, "init", "--quiet")
    apply_patch(tree, read_patch(patch_path))
    assert "from dire_plug import bridge" in (tree / SCRIPT).read_text()


def test_hunks_whose_line_numbers_disagree_are_refused(patch_path: Path) -> None:
    text = patch_path.read_text()
    assert "@@ -24,0 +31 @@" in text
    patch_path.write_text(text.replace("@@ -24,0 +31 @@", "@@ -23,0 +31 @@"))
    with pytest.raises(DirePlugError, match="inserting after line 23 makes line 30, not 31"):
        check_rules(read_patch(patch_path))


def test_where_git_does_nothing_the_first_missing_line_is_named(
    tree: Path, patch_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("subprocess.run", lambda command, **_: subprocess.CompletedProcess(command, 0))
    with pytest.raises(DirePlugError, match=r"synth\.py:7: after toy\.patch, 'from dire_plug .*' must stand"):
        apply_patch(tree, read_patch(patch_path))


def test_a_wrong_hash_after_is_an_error(tree: Path, patch_path: Path) -> None:
    after = read_patch(patch_path).files[0].after
    patch_path.write_text(patch_path.read_text().replace(after, "d" * 40))
    with pytest.raises(DirePlugError, match=r"after toy\.patch the file must have the blob hash d{40}"):
        apply_patch(tree, read_patch(patch_path))


def test_a_missing_file_is_named(tree: Path, patch_path: Path) -> None:
    (tree / SCRIPT).unlink()
    with pytest.raises(DirePlugError, match=r"synth\.py: toy\.patch touches this file, which cannot be read"):
        apply_patch(tree, read_patch(patch_path))


def test_taking_a_patch_out_gives_upstreams_bytes_back(tree: Path, patch_path: Path) -> None:
    patch = read_patch(patch_path)
    apply_patch(tree, patch)
    remove_patch(tree, patch)
    assert (tree / SCRIPT).read_bytes() == SYNTH.encode()
    assert remake(tree, patch) == patch_path.read_text()


def test_lines_end_as_the_file_does(tmp_path: Path) -> None:
    content = b"a = 1\r\nb = 2\r\n"
    (tmp_path / "f.py").write_bytes(content)
    path = tmp_path / "crlf.patch"
    text = make_patch({"f.py": content}, {"f.py": {1: ["from dire_plug import bridge"]}}, commit=COMMIT)
    path.write_bytes(text.encode())
    apply_patch(tmp_path, read_patch(path))
    assert (tmp_path / "f.py").read_bytes() == b"a = 1\r\nfrom dire_plug import bridge\r\nb = 2\r\n"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("+import os", "neither"),
        ("+from dire_plug import errors", "neither"),
        ("+if step: bridge.watch(network)", "neither"),
        ("+bridge.watch(network) if step else None", "neither"),
        ("+loss = loss * 2", "neither"),
        ("+loss += bridge.loss(loss)", "neither"),
        ("+other = bridge.loss(loss)", "must be the first argument"),
        ("+loss = bridge.loss(loss, step=step + 1)", "nothing computed"),
        ("+loss = bridge.loss(loss, step=0)", "nothing computed"),
        ("+bridge.watch(build())", "nothing computed"),
        ("+bridge.watch(*networks)", "nothing computed"),
        ("+bridge.watch(**options)", "without `\\*\\*`"),
        ("+bridge.attach(network)", "has no function 'attach'"),
        ("+torch.save(loss)", "the only thing that a patch may call"),
        ("+bridge.watch(network); bridge.watch(network)", "one statement a line"),
        ("+else:", "not one whole"),
        ("+", "one statement a line"),
        ("-loss = loss * 2", "deletes a line"),
        (" loss = loss * 2", "has context"),
    ],
)
def test_a_line_that_breaks_the_rule_is_refused(tmp_path: Path, line: str, problem: str) -> None:
    with pytest.raises(DirePlugError, match=rf"one\.patch:8: .*{problem}"):
        check_rules(read_patch(write_hunk(tmp_path, line)))


@pytest.mark.parametrize(
    "line",
    [
        "+from dire_plug import bridge",
        "+        bridge.watch(models[id])",
        "+loss = bridge.loss(loss, images=self.inputs, labels=targets, step=iteration, network=networks[id])",
    ],
)
def test_a_line_that_keeps_the_rule_is_accepted(tmp_path: Path, line: str) -> None:
    check_rules(read_patch(write_hunk(tmp_path, line)))


def test_a_repair_may_name_what_the_script_never_defines(tmp_path: Path) -> None:
    path = write_hunk(tmp_path, "+mean = bridge.mean_of(dataset)")
    with pytest.raises(DirePlugError, match="must be the first argument"):
        check_rules(read_patch(path))
    check_rules(read_patch(path.rename(tmp_path / "repair.patch")))


def test_all_lines_that_break_the_rule_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(DirePlugError) as caught:
        check_rules(read_patch(write_hunk(tmp_path, "+x = 1\n+import os", heading=" def work(args):")))
    assert [line.split(": ")[0].rpartition(":")[2] for line in str(caught.value).splitlines()] == ["7", "8", "9"]
    assert "'def work(args):'" in str(caught.value)


def test_a_hunk_that_claims_lines_before_is_refused(tmp_path: Path) -> None:
    path = write_hunk(tmp_path, "+bridge.watch(network)")
    path.write_text(path.read_text().replace("@@ -3,0", "@@ -3"))
    with pytest.raises(DirePlugError, match="claims"):
        check_rules(read_patch(path))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("commit: ", "from: ", "must name one commit"),
        (f"file: {'b' * 40}", f"file: {'b' * 39}", "header lists nothing, but the diff touches f.py"),
        ("+++ b/f.py", "+++ b/g.py", "header lists f.py, but the diff touches g.py"),
        ("--- a/f.py", "new file mode 100644", "not a line of a diff"),
    ],
)
def test_a_malformed_patch_is_an_error(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = write_hunk(tmp_path, "+bridge.watch(network)")
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(DirePlugError, match=message):
        read_patch(path)


def test_a_line_outside_the_file_cannot_be_patched() -> None:
    with pytest.raises(DirePlugError, match=r"f\.py: lines can be inserted after lines 0 to 1, not after 2"):
        make_patch({"f.py": b"a = 1\nb = 2"}, {"f.py": {2: ["c = 3"]}}, commit=COMMIT)


def test_the_digest_depends_on_contents_and_order(tmp_path: Path) -> None:
    one, two = tmp_path / "1.patch", tmp_path / "2.patch"
    one.write_text("one")
    two.write_text("two")
    digests = {patch_digest([one]), patch_digest([one, two]), patch_digest([two, one])}
    assert len(digests) == 3
    two.write_text("TWO")
    assert patch_digest([one, two]) not in digests
