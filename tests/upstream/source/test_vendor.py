"""Vendoring: whole and as published, or absent with a reason."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.toy_upstream import FOLDER, INSERTIONS, NEIGHBOUR, SCRIPT, SYNTH, ToyUpstream, git, make_adapter, make_toy

from dire_plug.errors import DirePlugError, MissingError
from dire_plug.methods.sre2l import SRe2L
from dire_plug.upstream.source.patching import make_patch, read_patch, remake
from dire_plug.upstream.source.tree import object_hash, read_manifest, write_manifest
from dire_plug.upstream.source.vendor import (
    find_vendored,
    patch_files,
    require_packages,
    require_vendored,
    unpatched_copy,
    vendor,
    vendored_folder,
    verify_tree,
)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> ToyUpstream:
    return make_toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def toy(published: ToyUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ToyUpstream:
    """A copy of the toy, and a home folder of its own."""
    monkeypatch.setenv("DIRE_PLUG_HOME", str(tmp_path / "home"))
    shutil.copytree(published.repository, tmp_path / "published")
    shutil.copytree(published.patches, tmp_path / "patches")
    return ToyUpstream(tmp_path / "published", published.commit, tmp_path / "patches")


@pytest.fixture
def adapter(toy: ToyUpstream) -> Any:
    return make_adapter(toy)


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_tree_holds_the_listed_paths_the_patch_and_a_manifest(adapter: Any, toy: ToyUpstream) -> None:
    tree = vendor(adapter)
    assert tree == vendored_folder(adapter)
    assert tree.name.startswith(f"toy@{toy.commit[:12]}+")
    assert files_of(tree) == {SCRIPT, f"{FOLDER}/neighbour.py", ".dire-plug.json"}
    assert (tree / FOLDER / "neighbour.py").read_text() == NEIGHBOUR
    assert (tree / SCRIPT).read_text().count("bridge") == 7
    assert json.loads((tree / ".dire-plug.json").read_text())["commit"] == toy.commit
    assert [path.name for path in tree.parent.iterdir()] == [tree.name]


def test_a_vendored_tree_is_used_again_without_the_repository(adapter: Any, toy: ToyUpstream) -> None:
    tree = vendor(adapter)
    shutil.rmtree(toy.repository)
    assert vendor(adapter) == vendor(adapter, offline=True) == find_vendored(adapter) == tree


def test_a_path_that_an_adapter_gets_later_is_fetched(
    adapter: Any, toy: ToyUpstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = vendor(adapter)
    paths = (FOLDER, "README.md")
    pins = {path: git(toy.repository, "rev-parse", f"{toy.commit}:{path}") for path in paths}
    monkeypatch.setattr(type(adapter), "upstream", replace(adapter.upstream, paths=paths, pins=pins))
    tree = vendor(adapter)
    assert (tree / "README.md").read_text() == "a toy\n"
    assert before.is_dir()


@pytest.mark.parametrize(
    ("packages", "command"),
    [
        (("ot", "timm"), "pip install POT timm"),
        (("cv2", "kornia"), "pip install 'dire-plug[upstreams]'"),
        (("einops", "ot"), "pip install 'dire-plug[upstreams]' POT"),
    ],
)
def test_a_missing_package_comes_with_what_installs_it(
    adapter: Any, monkeypatch: pytest.MonkeyPatch, packages: tuple[str, ...], command: str
) -> None:
    monkeypatch.setattr(type(adapter), "upstream", replace(adapter.upstream, packages=packages))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    message = f"A toy's own code imports {', '.join(packages)}, not installed here; install: {command}"
    with pytest.raises(MissingError, match=f"^{re.escape(message)}$") as caught:
        require_packages(adapter)
    assert caught.value.command == command


def test_another_patch_means_another_folder(adapter: Any, toy: ToyUpstream) -> None:
    before = vendored_folder(adapter)
    path = toy.patches / "bridge.patch"
    path.write_text("A remark.\n" + path.read_text())
    assert vendored_folder(adapter) != before
    assert find_vendored(adapter) is None


def change(tree: Path) -> Path:
    path = tree / SCRIPT
    path.write_text(path.read_text() + "\n")
    return path


def remove(tree: Path) -> Path:
    path = tree / FOLDER / "neighbour.py"
    path.unlink()
    return path


def add(tree: Path) -> Path:
    path = tree / FOLDER / "__pycache__" / "neighbour.cpython-311.pyc"
    path.parent.mkdir()
    path.write_bytes(b"")
    return path


@pytest.mark.parametrize(("tamper", "what"), [(change, "was changed"), (remove, "is missing"), (add, "was added")])
def test_a_tampered_tree_is_refused_and_the_file_named(adapter: Any, tamper: Any, what: str) -> None:
    tree = vendor(adapter)
    path = tamper(tree)
    for use in (vendor, find_vendored):
        with pytest.raises(DirePlugError) as caught:
            use(adapter)
        first, advice = str(caught.value).splitlines()
        assert first == f"{path}: {what}"
        assert f"remove the folder {tree} and run `dire-plug vendor` again" in advice


def test_a_tree_without_its_manifest_is_refused(adapter: Any) -> None:
    tree = vendor(adapter)
    (tree / ".dire-plug.json").unlink()
    with pytest.raises(DirePlugError, match=r"\.dire-plug\.json: cannot be read"):
        find_vendored(adapter)


@pytest.mark.parametrize("commit", ["8d00cba", "main", "g" * 40, "A" * 40])
def test_a_commit_that_is_no_full_hash_is_refused(adapter: Any, commit: str) -> None:
    adapter.commit = commit
    with pytest.raises(DirePlugError, match=f"toy: upstream's commit must be 40 hexadecimal digits, not '{commit}'"):
        vendor(adapter)


def test_what_needs_a_tree_names_the_command_that_fetches_it(adapter: Any, tmp_path: Path) -> None:
    with pytest.raises(DirePlugError, match=r"get it where the network may be used: dire-plug vendor toy$"):
        require_vendored(adapter)
    assert not (tmp_path / "home").exists()


def test_offline_a_local_clone_is_enough_and_an_address_is_refused(adapter: Any) -> None:
    local, adapter.repository = adapter.repository, "https://example.invalid/toy.git"
    with pytest.raises(DirePlugError, match="--offline allows no network: leave it out, or map the address to a clone"):
        vendor(adapter, offline=True)
    adapter.repository = local
    assert vendor(adapter, offline=True) == find_vendored(adapter)


def test_what_is_cloned_is_said_before(adapter: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    adapter.repository = str(tmp_path / "nowhere")
    with pytest.raises(DirePlugError, match="does not exist"):
        vendor(adapter)
    assert capsys.readouterr().err == f"vendor toy: cloning {tmp_path / 'nowhere'} at {adapter.commit[:12]}\n"


def test_a_tree_of_other_patches_is_named(adapter: Any, toy: ToyUpstream) -> None:
    tree = vendor(adapter)
    path = toy.patches / "bridge.patch"
    path.write_text("A remark.\n" + path.read_text())
    with pytest.raises(DirePlugError, match=re.escape(f"(there is {tree.name}, made with other patches or paths)")):
        require_vendored(adapter)


def test_a_vendored_tree_can_be_used_without_writing(adapter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = vendor(adapter)

    def refuse(*arguments: object, **named: object) -> None:
        raise AssertionError("a lease was taken")

    monkeypatch.setattr("dire_plug.upstream.source.vendor.hold", refuse)
    assert require_vendored(adapter) == vendor(adapter, offline=True) == tree


def test_a_tampered_patch_is_refused_rather_than_taken_for_another(adapter: Any, toy: ToyUpstream) -> None:
    vendor(adapter)
    path = toy.patches / "bridge.patch"
    path.write_text(path.read_text().replace("bridge.loss(cost, images", "bridge.loss(0 * cost, images"))
    with pytest.raises(DirePlugError, match=r"bridge\.patch:\d+: .*must be the first argument"):
        find_vendored(adapter)


def test_a_tampered_tree_whose_manifest_was_changed_with_it_is_refused(adapter: Any) -> None:
    tree = vendor(adapter)
    script = tree / SCRIPT
    script.write_text(script.read_text().replace("clamp_(-2, 2)", "clamp_(-9, 9)"))
    manifest = read_manifest(tree)
    write_manifest(tree, method="toy", repository=manifest.repository, commit=manifest.commit, patches=manifest.patches)
    verify_tree(tree)
    with pytest.raises(DirePlugError, match=r"synth\.py: must have the blob hash [0-9a-f]{40}, as .*remove the folder"):
        find_vendored(adapter)


def test_an_unreachable_repository_is_reported_with_gits_last_line(adapter: Any, tmp_path: Path) -> None:
    adapter.repository = str(tmp_path / "nowhere")
    with pytest.raises(DirePlugError, match=r"nowhere at [0-9a-f]{40}: fatal: repository '.*nowhere' does not exist$"):
        vendor(adapter)


def test_a_commit_that_the_repository_lacks_is_reported_and_nothing_stays(adapter: Any, toy: ToyUpstream) -> None:
    adapter.commit = "1" * 40
    with pytest.raises(DirePlugError, match=r"1{40}: "):
        vendor(adapter)
    assert list(vendored_folder(adapter).parent.iterdir()) == []


def test_a_path_that_the_commit_lacks_is_reported(adapter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("support.toy_upstream.FOLDER", "loop/*")
    with pytest.raises(DirePlugError, match="pathspec 'loop/\\*' did not match"):
        vendor(adapter)


def test_a_patch_for_another_commit_is_refused_and_nothing_stays(adapter: Any, toy: ToyUpstream) -> None:
    (toy.repository / "README.md").write_text("changed\n")
    git(toy.repository, "commit", "--quiet", "--all", "--message=more")
    adapter.commit = git(toy.repository, "rev-parse", "HEAD")
    with pytest.raises(DirePlugError, match=f"bridge.patch: is for commit {toy.commit}, but the adapter pins"):
        vendor(adapter)
    assert list(vendored_folder(adapter).parent.iterdir()) == []


def test_a_commit_that_no_branch_leads_to_is_fetched_by_its_hash(adapter: Any, toy: ToyUpstream) -> None:
    git(toy.repository, "checkout", "--quiet", "--orphan", "other")
    git(toy.repository, "commit", "--quiet", "--message=other")
    git(toy.repository, "branch", "--quiet", "-D", "main")
    adapter.repository = f"file://{toy.repository}"
    assert vendor(adapter).is_dir()


def test_without_git_the_error_says_so(adapter: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DirePlugError, match="git was not found; install it"):
        vendor(adapter)


@pytest.mark.parametrize("ends", ["\n", "\r\n"], ids=["lf", "crlf"])
@pytest.mark.parametrize(
    "setting", ["autocrlf = true", "autocrlf = input", "eol = crlf", "attributesFile = ~/attributes"]
)
def test_a_users_line_end_conversion_reaches_no_tree(
    toy: ToyUpstream, setting: str, ends: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synth, neighbour = (text.replace("\n", ends).encode() for text in (SYNTH, NEIGHBOUR))
    (toy.repository / SCRIPT).write_bytes(synth)
    (toy.repository / FOLDER / "neighbour.py").write_bytes(neighbour)
    git(toy.repository, "commit", "--quiet", "--all", "--allow-empty", "--message=line ends")
    commit = git(toy.repository, "rev-parse", "HEAD")
    (toy.patches / "bridge.patch").write_text(make_patch({SCRIPT: synth}, INSERTIONS, commit=commit), newline="")
    user = tmp_path / "user"
    user.mkdir()
    (user / "attributes").write_text("* text eol=crlf\n")
    (user / ".gitconfig").write_text(f"[core]\n\t{setting}\n")
    monkeypatch.delenv("GIT_CONFIG_GLOBAL", raising=False)
    monkeypatch.setenv("HOME", str(user))
    name, _, value = setting.partition(" = ")
    assert git(tmp_path, "config", "--get", f"core.{name}") == value
    tree = vendor(make_adapter(replace(toy, commit=commit)))
    assert (tree / FOLDER / "neighbour.py").read_bytes() == neighbour
    assert (tree / SCRIPT).read_bytes().count(b"\r\n") == (len(synth.splitlines()) + 7) * (ends == "\r\n")


def test_an_insteadof_mapping_of_the_user_is_followed(
    adapter: Any, toy: ToyUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tmp_path / "gitconfig"
    settings.write_text(f'[url "{toy.repository}"]\n\tinsteadOf = https://example.invalid/toy\n')
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(settings))
    adapter.repository = "https://example.invalid/toy"
    assert vendor(adapter).is_dir()


def test_inside_a_git_hook_the_callers_index_is_left_alone(
    adapter: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = tmp_path / "index"
    monkeypatch.setenv("GIT_INDEX_FILE", str(index))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    assert vendor(adapter).is_dir()
    assert not index.exists()


def test_the_unpatched_copy_holds_upstreams_bytes(adapter: Any, tmp_path: Path) -> None:
    tree = vendor(adapter)
    copy = unpatched_copy(adapter, tree, tmp_path / "pristine")
    assert (copy / SCRIPT).read_text() == SYNTH
    verify_tree(copy)
    verify_tree(tree)


def test_a_repair_comes_first_and_stays_in_the_unpatched_copy(adapter: Any, toy: ToyUpstream) -> None:
    (toy.patches / "repair.patch").write_text("")
    (toy.patches / "a.patch").write_text("")
    assert [path.name for path in patch_files(adapter)] == ["repair.patch", "a.patch", "bridge.patch"]


def change_with_record(tree: Path, name: str, text: str) -> None:
    """Change a file of a vendored tree, or add one, and its record in the tree too."""
    (tree / name).write_text(text)
    manifest = read_manifest(tree)
    recorded = {"method": manifest.method, "repository": manifest.repository, "commit": manifest.commit}
    write_manifest(tree, **recorded, patches=manifest.patches)
    verify_tree(tree)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (f"{FOLDER}/neighbour.py", r"loop/\*odd: must have git's hash [0-9a-f]{40}, as the adapter pins it, but has"),
        (f"{FOLDER}/torch.py", r"loop/\*odd: must have git's hash"),
        ("torch.py", r"torch\.py: isn't one of the adapter's pinned files"),
    ],
)
def test_a_file_changed_together_with_its_record_is_noticed(adapter: Any, name: str, message: str) -> None:
    tree = vendor(adapter)
    change_with_record(tree, name, "print('something else')\n")
    with pytest.raises(DirePlugError, match=message) as refused:
        require_vendored(adapter)
    assert str(refused.value).endswith("and run `dire-plug vendor` again.")


def test_a_missing_file_whose_record_is_gone_too_is_noticed(adapter: Any) -> None:
    tree = vendor(adapter)
    (tree / FOLDER / "neighbour.py").unlink()
    change_with_record(tree, SCRIPT, (tree / SCRIPT).read_text())
    with pytest.raises(DirePlugError, match="must have git's hash"):
        require_vendored(adapter)


def test_a_wrong_pin_leaves_no_tree(adapter: Any) -> None:
    adapter.pins = {FOLDER: "0" * 40}
    with pytest.raises(DirePlugError, match=f"must have git's hash {'0' * 40}"):
        vendor(adapter)
    assert not vendored_folder(adapter).exists()


def test_a_tree_hash_is_gits_own(toy: ToyUpstream) -> None:
    script = toy.repository / "loop" / "run.sh"
    script.write_text("true\n")
    script.chmod(0o755)
    (toy.repository / "loop" / "even-odd.txt").write_text("sorts between the folders\n")
    git(toy.repository, "add", "--all")
    git(toy.repository, "commit", "--quiet", "--message=more")
    for path in ("loop", SCRIPT):
        assert object_hash(toy.repository, path, modes=True) == git(toy.repository, "rev-parse", f"HEAD:{path}")


@pytest.mark.parametrize("mode", [0o644, 0o755])
def test_a_file_system_that_keeps_no_modes_is_no_change(adapter: Any, mode: int) -> None:
    tree = vendor(adapter)
    for path in (tree / FOLDER).iterdir():
        path.chmod(mode)
    assert require_vendored(adapter) == tree


@pytest.mark.upstream
def test_the_patch_of_sre2l_fits_the_published_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIRE_PLUG_HOME", str(tmp_path / "home"))
    adapter = SRe2L()
    try:
        tree = vendor(adapter)
    except DirePlugError as error:
        if str(error).startswith(adapter.upstream.repository):
            pytest.skip(str(error))
        raise
    copy = unpatched_copy(adapter, tree, tmp_path / "pristine")
    for path in patch_files(adapter):
        assert remake(copy, read_patch(path)) == path.read_text()
