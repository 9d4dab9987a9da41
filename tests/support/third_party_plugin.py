"""A third-party package: a method and a regularizer that join through entry points and `dire_plug.api` alone.

The method's files, and its published repository, are those of examples/toy-net. To make them by hand:
`PYTHONPATH=tests python -m support.third_party_plugin FOLDER`.
"""

import os
import runpy
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from support.toy_upstream import git

EXAMPLE = Path(__file__).parents[2] / "examples" / "toy-net"
URL = "https://example.org/toy-net"
"""Where the example says that the method is published; the repository made here stands in for it."""
WHEN = "2026-01-01T00:00:00Z"
"""Of the one commit, whose hash the example names."""
SCRIPT = "src/synth.py"
PATCH = "toy_net_plugin/patches/bridge.patch"
TERM = '''\
"""A third party's regularizer: spreads embeddings, and pushes each pass away from the one before."""

from dire_plug.api.term import Settings, Term, hookimpl


class SpreadSettings(Settings):
    scale: float = 1.0
    broken_from: int | None = None


class Spread(Term[SpreadSettings]):
    settings_model = SpreadSettings

    @hookimpl
    def loss_term(self, synthesis, batch):
        kept = synthesis.state(self)
        term = -batch.embeddings.var(dim=0, correction=0).mean()
        if "mean" in kept:
            term = term + batch.embeddings.mean(dim=0) @ kept["mean"]
        first = self.settings.broken_from
        is_broken = first is not None and batch.slot.pass_index >= first
        return self.settings.scale * term * (float("nan") if is_broken else 1)

    @hookimpl
    def step_done(self, synthesis, batch, losses):
        assert {"upstream", "spread"} <= set(losses)
        self.last = batch.embeddings.mean(dim=0)

    @hookimpl
    def slot_done(self, synthesis):
        synthesis.state(self)["mean"] = self.last
'''
TERMS = {"dire_plug.regularizers": {"spread": "toy_net_plugin.term:Spread"}}


@dataclass(frozen=True)
class ThirdParty:
    """Where the package and the published repository of its method lie."""

    site: Path
    repository: Path
    commit: str

    @property
    def patch(self) -> Path:
        """The package's own patch."""
        return self.site / PATCH


def read_files() -> dict[str, str]:
    """Return the example's files: path → text."""
    kinds = (".py", ".toml", ".yaml", ".patch")
    found = sorted(path for path in EXAMPLE.rglob("*") if path.suffix in kinds)
    return {path.relative_to(EXAMPLE).as_posix(): path.read_text() for path in found}


def make_third_party(folder: Path) -> ThirdParty:
    """Make the repository of the method, and the package, installed in `folder/site`; the patch is made anew."""
    repository, site = folder / "published", folder / "site"
    files = read_files()
    published = {name: files.pop(name) for name in list(files) if name.startswith("src/")}
    for name, text in published.items():
        write(repository / name, text)
    del files[PATCH]
    files |= {"toy_net_plugin/__init__.py": "", "toy_net_plugin/term.py": TERM}
    for name, text in files.items():
        write(site / name, text.replace(URL, str(repository)))
    points = tomllib.loads(files["pyproject.toml"])["project"]["entry-points"]
    offer(site, "toy_net_plugin", entry_points_text(points | TERMS))
    third_party = ThirdParty(site, repository, commit_all(repository))
    make_patch(third_party)
    return third_party


def commit_all(repository: Path) -> str:
    """Make a repository of the files in a folder; return its one commit, the same hash whenever it is made."""
    git(repository, "init", "--quiet", "--initial-branch=main")
    git(repository, "add", "--all")
    with mock.patch.dict(os.environ, {"GIT_AUTHOR_DATE": WHEN, "GIT_COMMITTER_DATE": WHEN}):
        git(repository, "commit", "--quiet", "--message=all")
    return git(repository, "rev-parse", "HEAD")


def make_patch(third_party: ThirdParty) -> None:
    """Run the example's own script that makes the patch, with the published repository as the clone."""
    script = third_party.site / "make_patch.py"
    with mock.patch.object(sys, "argv", [str(script), str(third_party.repository)]):
        runpy.run_path(str(script))


def entry_points_text(groups: Mapping[str, Mapping[str, str]]) -> str:
    """Return groups of entry points as an installed package's metadata hold them."""
    lines = [
        [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())] for group, points in groups.items()
    ]
    return "\n".join(line for group in lines for line in group) + "\n"


def offer(site: Path, package: str, entry_points: str) -> None:
    """Write the metadata that make an installed package's entry points known."""
    folder = site / f"{package}-1.0.dist-info"
    write(folder / "METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    write(folder / "entry_points.txt", entry_points)


def write(path: Path, text: str) -> None:
    """Write a text file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


if __name__ == "__main__":
    made = make_third_party(Path(sys.argv[1]).absolute())
    print(f"export PYTHONPATH={made.site}")
