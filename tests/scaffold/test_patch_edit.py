"""`dire-plug patch`: lines go in by their place, hashes follow, and what would break the script is refused."""

import re
from pathlib import Path

import pytest
from support.cli import Cli
from support.scaffolds import install_package
from support.third_party_plugin import SCRIPT, ThirdParty
from support.toy_upstream import git

from dire_plug import home as places
from dire_plug.api.patch_file import insert_lines
from dire_plug.errors import DirePlugError
from dire_plug.scaffold.package import Published, new_method
from dire_plug.scaffold.patch_edit import check_statement, indentation
from dire_plug.scaffold.script import read_script
from dire_plug.upstream.source.patching import check_rules, read_patch

LINES = (
    (27, "cost = bridge.loss(cost, images=images, labels=labels, step=step)"),
    (21, "bridge.watch(network)"),
    (32, "number = bridge.image_index(number, place)"),
    (23, "images = bridge.start(images, labels)"),
    (31, "bridge.step_done(cost, images=images, labels=labels, step=step)"),
    (22, "labels = bridge.labels(labels)"),
)
"""The toy's calls, in no order."""


@pytest.fixture
def folder(made_third_party: ThirdParty, bare_home: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A new package for the toy, of a name of the test's own, not installed."""
    name = f"patch-{abs(hash(request.node.name)) % 10**8}-toy"
    origin = Published(str(made_third_party.repository), made_third_party.commit, SCRIPT)
    return new_method(name, origin, into=tmp_path).folder


def name_of(folder: Path) -> str:
    return folder.name.removeprefix("dire-plug-")


def patch_of(folder: Path) -> Path:
    (found,) = folder.glob("*/patches/bridge.patch")
    return found


def insert(cli: Cli, folder: Path, place: str, call: str, *more: object) -> str:
    """Insert a line that must go in; return what was printed."""
    answer = cli("patch", "insert", name_of(folder), place, call, "--package", folder, *more)
    assert answer.code == 0, answer.err
    return answer.out


def refusal(cli: Cli, folder: Path, place: str, call: str, *more: object) -> str:
    """Insert a line that must be refused, with the patch as it was; return the reason."""
    before = patch_of(folder).read_bytes()
    answer = cli("patch", "insert", name_of(folder), place, call, "--package", folder, *more)
    assert answer.code == 2
    assert patch_of(folder).read_bytes() == before
    return answer.err


def test_lines_inserted_in_any_order_make_the_patch_written_by_hand(
    cli: Cli, folder: Path, made_third_party: ThirdParty
) -> None:
    for number, call in LINES:
        printed = insert(cli, folder, f"{SCRIPT}:{number}", call)
    assert patch_of(folder).read_bytes() == made_third_party.patch.read_bytes()
    assert printed.endswith(f"next: dire-plug vendor {name_of(folder)}\n")
    check_rules(read_patch(patch_of(folder)))


def test_what_was_inserted_and_what_is_missing_is_said(cli: Cli, folder: Path) -> None:
    assert insert(cli, folder, f"{SCRIPT}:27", LINES[0][1]).splitlines() == [
        "src/synth.py:27: inserted, as line 29 of the patched file:",
        f"      {LINES[0][1]}",
        "not in the patch yet: bridge.watch, bridge.labels, bridge.start, bridge.step_done, bridge.image_index",
    ]
    answer = cli("patch", "show", name_of(folder), "--package", folder)
    assert answer.out.splitlines()[:2] == [
        "src/synth.py:7  8  from dire_plug import bridge",
        f"src/synth.py:27  29      {LINES[0][1]}",
    ]


def test_the_patch_of_an_installed_package_is_found(cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_package(folder, monkeypatch)
    answer = cli("patch", "insert", name_of(folder), f"{SCRIPT}:21", "bridge.watch(network)", "--offline")
    assert answer.code == 0, answer.err
    assert "+bridge.watch(network)" in patch_of(folder).read_text()


def test_a_removed_line_leaves_the_patch_as_it_was(cli: Cli, folder: Path) -> None:
    before = patch_of(folder).read_bytes()
    insert(cli, folder, f"{SCRIPT}:21", "bridge.watch(network)")
    answer = cli("patch", "remove", name_of(folder), f"{SCRIPT}:21", "--package", folder)
    assert answer.code == 0
    assert answer.out.startswith("src/synth.py:21: removed: bridge.watch(network)\n")
    assert patch_of(folder).read_bytes() == before


def test_of_two_lines_at_one_place_one_can_be_removed(cli: Cli, folder: Path) -> None:
    insert(cli, folder, f"{SCRIPT}:22", "bridge.watch(network)")
    once = patch_of(folder).read_bytes()
    insert(cli, folder, f"{SCRIPT}:22", "labels = bridge.labels(labels)")
    assert (
        "@@ -22,0 +24,2 @@\n+bridge.watch(network)\n+labels = bridge.labels(labels)\n" in patch_of(folder).read_text()
    )
    line = ("patch", "remove", name_of(folder), f"{SCRIPT}:22", "labels = bridge.labels(labels)", "--package", folder)
    assert cli(*line).code == 0
    assert patch_of(folder).read_bytes() == once


def test_a_second_file_gets_the_import_too_and_loses_it_with_its_last_line(cli: Cli, folder: Path) -> None:
    before = patch_of(folder).read_bytes()
    insert(cli, folder, "src/saving.py:7", "number = bridge.image_index(number, label)")
    assert [file.path for file in read_patch(patch_of(folder)).files] == ["src/synth.py", "src/saving.py"]
    shown = cli("patch", "show", name_of(folder), "--package", folder).out
    assert "src/saving.py:3  4  from dire_plug import bridge\n" in shown
    assert "src/saving.py:7  9      number = bridge.image_index(number, label)\n" in shown
    assert cli("patch", "remove", name_of(folder), "src/saving.py:7", "--package", folder).code == 0
    assert patch_of(folder).read_bytes() == before


@pytest.mark.parametrize(
    ("place", "call", "why"),
    [
        ("src/synth.py:21", "bridge.watch(netwrok)", "the script has no name 'netwrok' (did you mean 'network'?)"),
        ("src/synth.py:21", "bridge.wach(network)", "bridge has no function 'wach' for patches; it has"),
        ("src/synth.py:21", "bridge.watch(network); x = 1", "one statement a line, please"),
        ("src/synth.py:21", "bridge.watch(\nnetwork)", "one line, please"),
        ("src/synth.py:21", "print(network)", "the only thing that a patch may call is bridge"),
        ("src/synth.py:21", "from dire_plug import bridge", "is inserted automatically"),
        ("src/synth.py:26", "bridge.watch(network)", "an assigned"),
        ("src/synth.py:3", "bridge.watch(network)", "would stand before bridge is imported"),
        ("src/synth.py:99", "bridge.watch(network)", "the file has lines 1 to 33"),
        ("src/snyth.py:3", "bridge.watch(network)", "has no file 'src/snyth.py' (did you mean 'src/synth.py'?)"),
        ("src/synth.py", "bridge.watch(network)", "is no location; write FILE:LINE"),
        ("src/synth.py:-1", "bridge.watch(network)", "is no location; write FILE:LINE"),
    ],
)
def test_a_line_that_cannot_stand_there_is_refused(cli: Cli, folder: Path, place: str, call: str, why: str) -> None:
    if why == "an assigned":
        call = "x = bridge.start(images, labels)"
    assert why in refusal(cli, folder, place, call)


def test_a_file_outside_of_the_published_code_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "other.py").write_text("x = 1\n")
    with pytest.raises(DirePlugError, match=r"the published code has no file '\.\./other\.py'"):
        read_script(tmp_path / "tree", "../other.py")


def test_a_second_file_keeps_its_import_while_a_call_stands_right_after_it(cli: Cli, folder: Path) -> None:
    insert(cli, folder, "src/saving.py:3", "bridge.keep(path=Path)")
    insert(cli, folder, "src/saving.py:7", "number = bridge.image_index(number, label)")
    assert cli("patch", "remove", name_of(folder), "src/saving.py:7", "--package", folder).code == 0
    assert "+from dire_plug import bridge\n+bridge.keep(path=Path)\n" in patch_of(folder).read_text()


def test_a_line_is_not_put_in_twice(cli: Cli, folder: Path) -> None:
    insert(cli, folder, f"{SCRIPT}:21", "bridge.watch(network)")
    assert "'bridge.watch(network)' is there already" in refusal(cli, folder, f"./{SCRIPT}:21", "bridge.watch(network)")
    assert "'bridge.watch(network)' is there already" in refusal(cli, folder, f"{SCRIPT}:21", "bridge.watch(network)")


def test_an_indentation_that_breaks_the_script_is_refused(cli: Cli, folder: Path) -> None:
    call = "bridge.watch(network)"
    assert "the script can't be read any more" in refusal(cli, folder, f"{SCRIPT}:28", call, "--indent", 2)
    assert insert(cli, folder, f"{SCRIPT}:31", call, "--indent", 0).splitlines()[1] == f"  {call}"
    assert f"\n+{call}\n" in patch_of(folder).read_text()


LOOP = b"""\
from dire_plug import bridge
def work(weights, scaler):
    for labels in weights:
        images = labels
        for step in labels:
            a = images
            b = images
            scaler.scale(a + b).backward()
            images.step()
            if step:
                continue
        return images
    raise weights
"""


@pytest.mark.parametrize(
    ("line", "indent", "call", "why"),
    [
        (11, 16, "bridge.step_done(images=images, labels=labels, step=step)", "behind the `continue` of line 11"),
        (12, 8, "bridge.watch(images)", "behind the `return` of line 12"),
        (13, 4, "bridge.watch(images)", "behind the `raise` of line 13"),
        (
            8,
            12,
            "bridge.term(images=images, labels=labels, step=step, scaler=scaler)",
            "before `backward`, which",
        ),
        (5, 12, "bridge.step_done(images=images, labels=labels, step=step)", "`backward` comes only in line 9"),
        (7, 12, "bridge.term(images=images, labels=labels, step=step)", "add scaler=scaler"),
        (7, 12, "bridge.term(images=images, labels=labels, step=step, scaler=scaler)", ""),
        (11, 12, "bridge.step_done(images=images, labels=labels, step=step)", ""),
    ],
)
def test_a_call_that_is_never_reached_or_on_the_wrong_side_is_refused(
    line: int, indent: int, call: str, why: str
) -> None:
    after = insert_lines(LOOP, {line: [" " * indent + call]}, path="x.py")
    if not why:
        check_statement(LOOP, after, line=line + 1, where="x.py:1")
        return
    with pytest.raises(DirePlugError, match=re.escape(why)):
        check_statement(LOOP, after, line=line + 1, where="x.py:1")


@pytest.mark.parametrize("slot_first", [True, False])
def test_a_batch_that_would_begin_in_each_step_is_refused(cli: Cli, folder: Path, slot_first: bool) -> None:
    slot = (f"{SCRIPT}:26", "labels = bridge.labels(labels)")
    step = (f"{SCRIPT}:27", "cost = bridge.loss(cost, images=images, labels=labels, step=step)")
    if not slot_first:
        insert(cli, folder, *step)
        assert "a batch would begin in each step" in refusal(cli, folder, *slot)
    else:
        insert(cli, folder, *slot)
        assert "a batch would begin in each step" in refusal(cli, folder, *step)


def test_where_a_block_ends_the_other_indentation_is_named(cli: Cli, folder: Path) -> None:
    call = "bridge.watch(network)"
    assert "a block ends there; to stand behind it: --indent 0\n" in insert(cli, folder, f"{SCRIPT}:31", call)
    assert "a block ends" not in insert(cli, folder, f"{SCRIPT}:28", call)
    assert "a block ends" not in insert(cli, folder, f"{SCRIPT}:33", call, "--indent", 0)


def test_a_place_inside_a_statement_is_refused() -> None:
    for script, line in ((b"import bridge\nx = f(\n    1,\n)\n", 3), (b'import bridge\nx = """\na\n"""\n', 3)):
        after = insert_lines(script, {line: ["    bridge.watch(x)"]}, path="x.py")
        with pytest.raises(DirePlugError, match=r"can't be read any more|within a text"):
            check_statement(script, after, line=line + 1, where="x.py:3")


@pytest.mark.parametrize(
    ("line", "white"),
    [
        (0, ""),
        (1, ""),
        (2, "    "),
        (3, "    "),
        (4, "        "),
        (5, "        "),
        (7, "    "),
        (8, "    "),
        (9, "    "),
        (10, "\t"),
        (11, "\t"),
        (13, ""),
    ],
)
def test_a_line_is_indented_as_the_statement_before_it(line: int, white: str) -> None:
    script = (
        b"import a\n"  # 1
        b"def f(x):  # a head: of the block\n"
        b"    y = 1\n"  # 3
        b"    if y:\n"
        b"        y = 2\n"  # 5
        b"    z = g(\n"
        b"        1)\n"  # 7
        b"    # a comment\n"
        b"\n"  # 9
        b"for i in a:\n"
        b"\ty = i\n"  # 11
        b"x = [\n"
        b"    1]\n"  # 13
    )
    assert indentation(script, line) == white


@pytest.mark.parametrize("place", ["src/synth.py:22", "src/other.py:7"])
def test_what_is_not_there_cannot_be_removed(cli: Cli, folder: Path, place: str) -> None:
    answer = cli("patch", "remove", name_of(folder), place, "--package", folder)
    assert (answer.code, answer.err) == (
        2,
        f"error: {place}: the patch has no line there; it has lines at src/synth.py:7\n",
    )


def test_the_import_stays_in_a_patch(cli: Cli, folder: Path) -> None:
    answer = cli("patch", "remove", name_of(folder), "src/synth.py:7", "--package", folder)
    assert answer.code == 2
    assert "the import is removed automatically" in answer.err


def test_the_patches_of_dire_plug_itself_are_not_edited(cli: Cli, bare_home: Path, tmp_path: Path) -> None:
    for line in (("insert", "sre2l", "a.py:1", "bridge.watch(x)"), ("show", "sre2l"), ("remove", "sre2l", "a.py:1")):
        answer = cli("patch", *line)
        assert answer.code == 2
        assert answer.err == "error: sre2l is dire-plug's own, and its patch isn't edited; write a method of your own\n"


def test_in_a_checkout_its_own_are_found_with_the_option(cli: Cli, bare_home: Path) -> None:
    checkout = places.checkout()
    assert checkout is not None
    answer = cli("patch", "show", "mtt", "--package", checkout)
    assert answer.code == 0, answer.err
    assert "distill.py:388  " in answer.out


def test_a_package_that_is_not_there_or_offers_another_method_is_named(cli: Cli, folder: Path, tmp_path: Path) -> None:
    assert (
        f"{tmp_path}/nothing/pyproject.toml: cannot be read"
        in cli("patch", "show", "x", "--package", tmp_path / "nothing").err
    )
    answer = cli("patch", "show", "x", "--package", folder)
    assert answer.err == f"error: {folder}: offers no method 'x'; it offers {name_of(folder)}\n"
    answer = cli("patch", "show", name_of(folder))
    assert (
        "install its package: pip install --no-deps -e FOLDER; or name its folder with --package FOLDER" in answer.err
    )


def test_a_patch_for_another_commit_or_another_file_is_not_edited(cli: Cli, folder: Path) -> None:
    path = patch_of(folder)
    text = path.read_text()
    commit, blob = text.split("commit: ")[1][:40], text.split("file: ")[1][:40]
    path.write_text(text.replace(commit, "1" * 40))
    assert "but the adapter pins" in refusal(cli, folder, f"{SCRIPT}:21", "bridge.watch(network)")
    path.write_text(text.replace(blob, "1" * 40))
    assert f"the published one has {blob}" in refusal(cli, folder, f"{SCRIPT}:21", "bridge.watch(network)")


def test_a_changed_copy_of_the_published_code_is_noticed(cli: Cli, folder: Path) -> None:
    scripts = list((places.downloads() / "published").glob(f"*/{SCRIPT}"))
    for script in scripts:
        script.write_text(script.read_text() + "\n")
    message = refusal(cli, folder, f"{SCRIPT}:21", "bridge.watch(network)")
    assert any(f"{script}: was changed" in message for script in scripts)


def test_line_ends_are_the_files_own(cli: Cli, made_third_party: ThirdParty, bare_home: Path, tmp_path: Path) -> None:
    script = tmp_path / "crlf" / "src" / "loop.py"
    script.parent.mkdir(parents=True)
    script.write_bytes(b"import torch\r\nnetwork = torch\r\n")
    for line in (("init", "--quiet"), ("add", "--all"), ("commit", "--quiet", "--message=all")):
        git(tmp_path / "crlf", "-c", "core.autocrlf=false", *line)
    origin = Published(str(tmp_path / "crlf"), git(tmp_path / "crlf", "rev-parse", "HEAD"), "src/loop.py")
    folder = new_method("crlf-toy", origin, into=tmp_path).folder
    insert(cli, folder, "src/loop.py:2", "bridge.watch(network)")
    assert b"+from dire_plug import bridge\r\n" in patch_of(folder).read_bytes()
    assert b"+bridge.watch(network)\r\n" in patch_of(folder).read_bytes()
