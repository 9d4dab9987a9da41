"""The published code at its commit, unpatched: fetched once, kept in the cache, and compared at each use."""

from pathlib import Path

from dire_plug import home, ui
from dire_plug.errors import DirePlugError
from dire_plug.files import digest, new_folder
from dire_plug.store.lock import hold
from dire_plug.types import Upstream
from dire_plug.upstream.tree import verify_tree, write_manifest
from dire_plug.upstream.vendor import fetch


def published(upstream: Upstream, *, offline: bool = False) -> Path:
    """Return the unpatched tree of the listed paths of a repository.

    Raises:
        DirePlugError: the repository, the commit or a path can't be reached, the tree was changed, or it isn't here and
            `offline`.
    """
    key = {"repository": upstream.repository, "commit": upstream.commit, "paths": upstream.paths}
    folder = home.downloads() / "published" / digest(key)[:16]
    if folder.is_dir():
        verify_tree(folder)
        return folder
    if offline:
        raise DirePlugError(
            f"{upstream.repository}: its code isn't here; leave out --offline where a clone can be made"
        )
    with hold(folder.with_name(f".{folder.name}.lock"), wait=600, what=f"the tree {folder}"):
        if not folder.is_dir():
            ui.say(f"cloning {upstream.repository} at {upstream.commit[:12]}")
            with new_folder(folder) as tree:
                fetch(upstream, tree)
                write_manifest(tree, method="", repository=upstream.repository, commit=upstream.commit, patches={})
    return folder
