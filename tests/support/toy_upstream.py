"""A tiny published method: a git repository with one synthesis script, its patch, and its adapter."""

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dire_plug.api.plans import ChunkedPlan, build_plan
from dire_plug.recipe.model import RecoverSection
from dire_plug.types import Invocation, LoopInputs, Script, Upstream
from dire_plug.upstream.job import ChildJob
from dire_plug.upstream.source.patching import make_patch
from dire_plug.upstream.source.tree import write_manifest
from support.paths import TESTS

FOLDER = "loop/*odd"
SCRIPT = f"{FOLDER}/synth.py"
CLASSES = 3

SYNTH = """\
import argparse
import random

import torch
from neighbour import save
from torch import nn


def work(args, number):
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.ReLU(), nn.Linear(4, 3)).cuda()
    network.load_state_dict(torch.load(args.weights))
    for parameter in network.parameters():
        parameter.requires_grad = False
    labels = torch.arange(3).to("cuda")
    images = torch.randn((3, 3, 2, 2), device="cuda", requires_grad=True)
    optimizer = torch.optim.Adam([images], lr=0.1)
    for step in range(args.steps):
        shifted = torch.roll(images, random.randint(0, 1), 3)
        cost = nn.functional.cross_entropy(network(shifted), labels)
        optimizer.zero_grad()
        cost.backward()
        optimizer.step()
        images.data.clamp_(-2, 2)
    for place in range(len(images)):
        save(args.out, labels[place].item(), number, images[place])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--out")
    parser.add_argument("--weights")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--pass", dest="number", type=int, default=0)
    arguments = parser.parse_args()
    print("pass", arguments.number)
    work(arguments, arguments.number)
"""

NEIGHBOUR = """\
from pathlib import Path


def save(folder, label, number, image):
    path = Path(folder) / f"{label}-{number}.txt"
    path.write_text(" ".join(str(value) for value in image.detach().cpu().flatten().tolist()))
"""

INSERTIONS: dict[str, dict[int, list[str]]] = {
    SCRIPT: {
        6: ["from dire_plug import bridge"],
        13: ["    bridge.watch(network)"],
        14: ["    labels = bridge.labels(labels)"],
        15: ["    images = bridge.start(images, labels)"],
        19: ["        cost = bridge.loss(cost, images=images, labels=labels, step=step)"],
        23: ["        bridge.step_done(cost, images=images, labels=labels, step=step)"],
        24: ["        number = bridge.image_index(number, place)"],
    }
}


@dataclass(frozen=True)
class ToyUpstream:
    """The repository, its pinned commit, and the folder that holds the patch."""

    repository: Path
    commit: str
    patches: Path


@dataclass
class ToyAdapter:
    """The adapter; without arguments, as the child process makes it, it only plans."""

    repository: str = ""
    commit: str = "0" * 40
    folder: Path = Path()
    pins: Mapping[str, str] = field(default_factory=dict)
    name: str = "toy"
    title: str = "A toy"
    embeddings_are_nonnegative: bool = True
    scripts: Mapping[str, Script] = field(
        default_factory=lambda: {
            "synth": Script(SCRIPT, CLASSES, 2, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "small", "bare"),
        }
    )

    @property
    def upstream(self) -> Upstream:
        """The pinned repository; only the odd folder of it is needed."""
        return Upstream(self.repository, self.commit, (FOLDER,), "none", pins=self.pins)

    def patches(self) -> Path:
        """Return the folder of the patch."""
        return self.folder

    def plan(self, recover: Any, *, classes: int, ipc: int) -> ChunkedPlan:
        """Return one batch a pass."""
        return build_plan(classes=classes, ipc=ipc, slots_per_pass=1)

    def steps(self, recover: RecoverSection) -> int:
        """Return the number of steps."""
        return 2

    def invocation(self, inputs: LoopInputs) -> Invocation:
        """Return the command line; a test writes the weights."""
        arguments = ("--out", str(inputs.images), "--weights", str(inputs.folder / "weights.pt"))
        return Invocation(SCRIPT, arguments, {"device": {}, "torch_load": {}, "network": {}})

    def pass_arguments(self, pass_index: int, script: str) -> tuple[str, ...]:
        """Return the arguments of one pass."""
        return ("--pass", str(pass_index))


def make_toy(folder: Path) -> ToyUpstream:
    """Make the repository and the patch below `folder`."""
    repository, patches = folder / "published", folder / "patches"
    for name, content in {
        SCRIPT: SYNTH,
        f"{FOLDER}/neighbour.py": NEIGHBOUR,
        "loop/even-odd/decoy.py": "",
        "README.md": "a toy\n",
    }.items():
        path = repository / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    git(repository, "init", "--quiet", "--initial-branch=main")
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "--message=all")
    commit = git(repository, "rev-parse", "HEAD")
    patches.mkdir()
    (patches / "bridge.patch").write_text(make_patch({SCRIPT: SYNTH.encode()}, INSERTIONS, commit=commit))
    return ToyUpstream(repository, commit, patches)


def make_adapter(toy: ToyUpstream) -> Any:
    """Return the toy's adapter, pinned to its commit and to git's hash of its folder there."""
    pins = {FOLDER: git(toy.repository, "rev-parse", f"{toy.commit}:{FOLDER}")}
    return ToyAdapter(str(toy.repository), toy.commit, toy.patches, pins)


def make_known(folder: Path) -> str:
    """Write an entry point for the toy below `folder`; return the PYTHONPATH that makes it known to a child."""
    metadata = folder / "toy-0.1.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 0.1\n")
    (metadata / "entry_points.txt").write_text("[dire_plug.methods]\ntoy = support.toy_upstream:ToyAdapter\n")
    return f"{folder}:{TESTS}"


def make_script(folder: Path, text: str) -> ChildJob:
    """Return a job that runs a script of our own, unpatched."""
    tree = folder / "tree"
    tree.mkdir()
    (tree / "script.py").write_text(text)
    write_manifest(tree, method="own", repository="", commit="", patches={})
    return ChildJob(tree, "script.py", (), folder)


def git(folder: Path, *arguments: str) -> str:
    """Run git in a folder as somebody; return what it printed."""
    who = ("-c", "user.name=Toy", "-c", "user.email=toy@example.org", "-c", "commit.gpgsign=false")
    command = ["git", "-C", str(folder), *who, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
