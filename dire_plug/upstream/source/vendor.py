"""Fetch a method's published code: the pinned commit, the needed paths, our patches; whole or not at all."""

import contextlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dire_plug import home, ui
from dire_plug.api.patch_file import Patch
from dire_plug.errors import DirePlugError, MissingError
from dire_plug.files import digest, digest_file, new_folder
from dire_plug.store.lease import hold
from dire_plug.types import Adapter, Upstream
from dire_plug.upstream.source.patching import (
    OWN_BYTES,
    REPAIR,
    apply_patch,
    check_patched,
    check_rules,
    patch_digest,
    read_patch,
    remove_patch,
)
from dire_plug.upstream.source.tree import read_manifest, verify_pins, verify_tree, write_manifest

__all__ = [
    "fetch",
    "find_vendored",
    "patch_files",
    "require_packages",
    "require_vendored",
    "unpatched_copy",
    "vendor",
    "vendored_folder",
    "verify_tree",
]

# never ask for a password, fetch no large files, take paths as they are written
_GIT = {"GIT_ATTR_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0", "GIT_LFS_SKIP_SMUDGE": "1", "GIT_LITERAL_PATHSPECS": "1"}
# no link may lead out of the tree, and no hook of the user's may run
_SETTINGS = {**OWN_BYTES, "core.symlinks": "false", "core.hooksPath": os.devnull}


def vendor(adapter: Adapter, *, offline: bool = False) -> Path:
    """Return the patched tree of a method's upstream, fetching it first where it isn't there.

    Args:
        offline: fetch from a local path only, which may be what git's own configuration puts in an address' place.

    Raises:
        DirePlugError: the pinned commit is no full hash, the repository or the commit cannot be reached, a patch
            doesn't apply, or an existing tree was changed.
    """
    # a tree that is there is only read, so that it may lie where nothing can be written
    if offline and (found := find_vendored(adapter)):
        return found
    folder = vendored_folder(adapter)
    # two commands may want the same tree at once; the second finds it
    with hold(folder.with_name(f".{folder.name}.lease"), wait=600, what=f"the vendored tree {folder}"):
        if found := find_vendored(adapter):
            return found
        ui.say(f"vendor {adapter.name}: cloning {adapter.upstream.repository} at {adapter.upstream.commit[:12]}")
        with new_folder(folder) as tree:
            fetch(adapter.upstream, tree, offline=offline)
            patches = patch_files(adapter)
            for path in patches:
                _apply(tree, path, adapter.upstream)
            _record(tree, adapter, patches)
            verify_tree(tree)
            _verify_pins(tree, adapter, [read_patch(path) for path in patches])
    return folder


def find_vendored(adapter: Adapter) -> Path | None:
    """Return the patched tree, verified, if it is vendored; else None. Nothing is written.

    The patches are checked first, and the tree against them and the adapter's pins too: its own manifest could have
    been changed with it.

    Raises:
        DirePlugError: a patch breaks the rule, or the tree isn't as it was vendored.
    """
    folder = vendored_folder(adapter)
    patches = [read_patch(path) for path in patch_files(adapter)]
    for patch in patches:
        check_rules(patch)
    if not folder.is_dir():
        return None
    verify_tree(folder)
    check_patched(folder, patches)
    _verify_pins(folder, adapter, patches)
    if read_manifest(folder).commit != adapter.upstream.commit:
        raise DirePlugError(f"{folder}: holds another commit than its name says; remove it and vendor it again")
    return folder


def require_vendored(adapter: Adapter) -> Path:
    """Return the patched tree, verified; nothing is fetched or written.

    Raises:
        DirePlugError: it isn't there, it was changed, or a patch was.
    """
    if found := find_vendored(adapter):
        require_packages(adapter)
        return found
    folder = vendored_folder(adapter)
    others = sorted(path.name for path in folder.parent.glob(f"{folder.name.partition('+')[0]}+*"))
    raise DirePlugError(
        f"{adapter.name}: upstream's code is not in {folder}"
        + (f" (there is {', '.join(others)}, made with other patches or paths)" if others else "")
        + f"; get it where the network may be used: dire-plug vendor {adapter.name}"
    )


EXTRA = "upstreams"
DISTRIBUTIONS = {
    "cv2": "opencv-python-headless",
    "ot": "POT",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "PyYAML",
}
"""Imported name → what is installed for it, where that is another name."""


def require_packages(adapter: Adapter) -> None:
    """Raise where packages are missing that upstream's code imports.

    Raises:
        DirePlugError: some aren't installed; the message says how to install them.
    """
    missing = [name for name in adapter.upstream.packages if importlib.util.find_spec(name) is None]
    if missing:
        wanted = [DISTRIBUTIONS.get(name, name) for name in missing]
        # a requirement begins with its name: einops<1,>=0.7; extra == 'upstreams'
        requirements = importlib.metadata.requires("dire-plug") or ()
        extra = [one for one in requirements if re.search(rf"extra == .{EXTRA}.$", one)]
        others = [name for name in wanted if not any(re.match(rf"{name}\b(?!-)", one) for one in extra)]
        words = [f"'dire-plug[{EXTRA}]'"] if len(others) < len(wanted) else []
        command = " ".join(["pip install", *words, *others])
        raise MissingError(
            f"{adapter.title}'s own code imports {', '.join(missing)}, not installed here; install: {command}",
            command=command,
        )


def vendored_folder(adapter: Adapter) -> Path:
    """Return where the patched tree of a method lies, or would."""
    commit = adapter.upstream.commit
    if not re.fullmatch(r"[0-9a-f]{40}", commit):
        raise DirePlugError(f"{adapter.name}: upstream's commit must be 40 hexadecimal digits, not {commit!r}")
    # what decides the tree is in the name: trees of two versions of a patch, or with another path, stand side by side
    made_of = digest([patch_digest(patch_files(adapter)), sorted(adapter.upstream.paths)])
    return home.third_party() / f"{adapter.name}@{commit[:12]}+{made_of[:8]}"


def patch_files(adapter: Adapter) -> list[Path]:
    """Return a method's patches in the order in which they are applied: the repair first."""
    found = sorted(adapter.patches().glob("*.patch"), key=lambda path: (path.name != REPAIR, path.name))
    if not found:
        raise DirePlugError(f"{adapter.patches()}: holds no *.patch for {adapter.name}")
    return found


def unpatched_copy(adapter: Adapter, tree: Path, folder: Path) -> Path:
    """Copy a vendored tree to `folder` and take our patches out again, but for a repair; return `folder`.

    What is left has upstream's own blob hashes, which is compared, so that no second fetch is needed.
    """
    shutil.rmtree(folder, ignore_errors=True)
    with new_folder(folder) as copy:
        shutil.copytree(tree, copy, dirs_exist_ok=True)
        patches = patch_files(adapter)
        # in reverse: a later patch may have moved an earlier one's lines
        for path in reversed([path for path in patches if path.name != REPAIR]):
            remove_patch(copy, read_patch(path))
        _record(copy, adapter, [path for path in patches if path.name == REPAIR])
    return folder


def _apply(tree: Path, path: Path, upstream: Upstream) -> None:
    patch = read_patch(path)
    if patch.commit != upstream.commit:
        raise DirePlugError(f"{path}: is for commit {patch.commit}, but the adapter pins {upstream.commit}")
    apply_patch(tree, patch)


def _verify_pins(tree: Path, adapter: Adapter, patches: Sequence[Patch]) -> None:
    """Compare a patched tree, whose patches were compared before, with the hashes of upstream's files."""
    patched = {file.path: file.before for patch in reversed(patches) for file in patch.files}
    verify_pins(tree, adapter.upstream.pins, patched)


def _record(tree: Path, adapter: Adapter, patches: list[Path]) -> None:
    write_manifest(
        tree,
        method=adapter.name,
        repository=adapter.upstream.repository,
        commit=adapter.upstream.commit,
        patches={path.name: digest_file(path) for path in patches},
    )


def fetch(upstream: Upstream, tree: Path, *, offline: bool = False) -> None:
    """Put the listed paths of the pinned commit, or every Python file, into the empty folder `tree`, without .git."""
    git = _gitpython()
    environment = {**_GIT, "GIT_ALLOW_PROTOCOL": "file"} if offline else _GIT
    clone = tree / ".clone"
    with _no_repository_of_the_caller():
        try:
            with _clone(git, upstream.repository, clone, environment) as repo:
                for name, value in _SETTINGS.items():
                    repo.git.config(name, value)
                repo.git.update_environment(**environment)
                _require_commit(repo, upstream)
                # only the needed paths: some repositories hold large files beside
                repo.git.checkout(upstream.commit, "--", *(upstream.paths or _python_files(repo, upstream.commit)))
        except git.exc.GitCommandError as error:
            advice = "; --offline allows no network: leave it out, or map the address to a clone" if offline else ""
            where = f"{upstream.repository} at {upstream.commit}"
            raise DirePlugError(f"{where}: {_last_line(error)}{advice}") from error
    # without history the tree is files only, and all of them are in the manifest
    shutil.rmtree(clone / ".git")
    for path in clone.iterdir():
        path.rename(tree / path.name)
    clone.rmdir()


def _clone(git: Any, repository: str, folder: Path, environment: dict[str, str]) -> Any:
    """Clone without a checkout: blobless where the server supports that, else whole."""
    try:
        return git.Repo.clone_from(repository, folder, env=environment, no_checkout=True, filter="blob:none")
    except git.exc.GitCommandError:
        shutil.rmtree(folder, ignore_errors=True)
        return git.Repo.clone_from(repository, folder, env=environment, no_checkout=True)


def _python_files(repo: Any, commit: str) -> list[str]:
    names = repo.git.ls_tree("-r", "-z", "--name-only", commit).split("\0")
    # where there are none, git names the pattern in its error
    return [name for name in names if name.endswith(".py")] or ["*.py"]


def _require_commit(repo: Any, upstream: Upstream) -> None:
    """Fetch the commit by its hash where no branch leads to it."""
    status, _, _ = repo.git.cat_file(
        "-e", f"{upstream.commit}^{{commit}}", with_extended_output=True, with_exceptions=False
    )
    if status != 0:
        repo.git.fetch("origin", upstream.commit)


def _gitpython() -> Any:
    try:
        import git
    except ImportError as error:
        raise DirePlugError("git was not found; install it (vendoring and patching need it)") from error
    if shutil.which("git") is None:
        raise DirePlugError("git was not found; install it (vendoring and patching need it)")
    return git


@contextlib.contextmanager
def _no_repository_of_the_caller() -> Iterator[None]:
    """Hide the variables by which git, inside one of its hooks, would write to the caller's repository."""
    names = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX", "GIT_COMMON_DIR")
    hidden = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


def _last_line(error: Any) -> str:
    lines = str(error.stderr or error).strip().removeprefix("stderr: ").strip("'\n ").splitlines()
    return lines[-1].strip() if lines else "git failed"
