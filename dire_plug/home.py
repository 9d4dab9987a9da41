"""Locate the home folder, and the patches and recipes that ship with dire-plug."""

import os
from pathlib import Path

import platformdirs

from dire_plug.files import expand_user

PACKAGE = Path(__file__).resolve().parent
BESIDE_USER = "dire-plug"
"""The folder of runs in the working folder."""
LISTINGS = "listings"
"""The folder in the store of the listings of large datasets."""


def checkout() -> Path | None:
    """Return the root of the checkout that this package runs from, or None for an installed wheel."""
    root = PACKAGE.parent
    # an installed wheel lies in site-packages, which has neither
    return root if (root / "pyproject.toml").is_file() and (root / "patches").is_dir() else None


def home() -> Path:
    """Return the folder of third_party/, store/ and downloads/: DIRE_PLUG_HOME, the checkout, or the user's folder."""
    return _own_home() or Path(platformdirs.user_data_dir("dire-plug"))


def _own_home() -> Path | None:
    if chosen := os.environ.get("DIRE_PLUG_HOME"):
        return expand_user(chosen, where="DIRE_PLUG_HOME").absolute()
    return checkout()


def third_party() -> Path:
    """Return the folder of the vendored upstreams."""
    return home() / "third_party"


def store() -> Path:
    """Return the folder of artefacts: networks, embeddings, syntheses, students and what else runs share."""
    return home() / "store"


def downloads() -> Path:
    """Return the folder of what was fetched and can be fetched again: published weights, published sources."""
    return home() / "downloads"


def runs() -> Path:
    """Return the folder of the run directories: runs/ of the home; an installed wheel's lie in the working folder."""
    return Path.cwd() / BESIDE_USER if runs_beside_user() else home() / "runs"


def runs_beside_user() -> bool:
    """Return whether runs lie in the working folder: an installed wheel's user has named no home."""
    return _own_home() is None


def resource(kind: str) -> Path:
    """Return the folder of our own `patches` or `recipes`: in the wheel, else in the checkout."""
    inside = PACKAGE / f"_{kind}"
    if inside.is_dir():
        return inside
    root = checkout()
    return (root or PACKAGE) / kind
