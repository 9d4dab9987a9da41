"""A published loop in small, for `verify`: two batches a pass, a loss of two parts, a shift, a clipping, files."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from pydantic import BaseModel, ConfigDict

from dire_plug import bridge
from dire_plug.api.method import PlannedAdapter, to_arguments
from dire_plug.api.plans import ChunkedPlan, build_plan
from dire_plug.types import Invocation, LoopInputs, Script, ScriptInputs, Upstream, VerifyCase
from dire_plug.upstream import child
from dire_plug.upstream.job import ChildJob
from dire_plug.upstream.source.patching import make_patch
from dire_plug.upstream.verify.observe import head_of
from support.shim_isolation import shims_put_back
from support.toy_upstream import git

SCRIPT = "synth.py"
CLASSES, SIZE = 4, 8
SYNTH = """\
import argparse
import random

import torch
from saving import save
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--weights")
parser.add_argument("--out")
parser.add_argument("--iteration", type=int)
parser.add_argument("--pass", dest="number", type=int)
arguments = parser.parse_args()
number = arguments.number
network = nn.Sequential(nn.Flatten(), nn.Linear(192, 256), nn.ReLU(), nn.Linear(256, 4))
network.load_state_dict(torch.load(arguments.weights))
network = network.eval().requires_grad_(False).cuda()
for first in range(0, 4, 2):
    labels = torch.arange(first, first + 2).cuda()
    images = torch.randn((len(labels), 3, 8, 8), device="cuda", requires_grad=True)
    count = arguments.iteration
    optimizer = torch.optim.Adam([images], lr=0.1)
    for step in range(count):
        moved = torch.roll(images, random.randint(0, 3), 3)
        cost = nn.functional.cross_entropy(network(moved), labels)
        cost = cost + 0.1 * images.square().mean()
        optimizer.zero_grad()
        cost.backward()
        optimizer.step()
        images.data.clamp_(-2, 2)
    for place in range(len(images)):
        save(arguments.out, int(labels[place]), number, images[place])
"""
UNNAMED = SYNTH.replace("cost = cost + 0.1 * images.square().mean()", "penalty = 0.1 * images.square().mean()").replace(
    "cost.backward()", "(cost + penalty).backward()"
)
"""The same loop, line by line, with a loss that has no name."""
COMMITTEE = (
    SYNTH.replace("import argparse", "import argparse, copy")
    .replace(
        "network = network.eval().requires_grad_(False).cuda()",
        "networks = [network.eval().requires_grad_(False), copy.deepcopy(network)]; networks[1][2] = nn.Tanh(); "
        'networks[1].load_state_dict(torch.load(arguments.weights + "-second")); '
        'names, unknown = ["Second", "First"], ["Third", "First"]',
    )
    .replace(
        "nn.functional.cross_entropy(network(moved), labels)", "sum(one(moved).logsumexp(1).mean() for one in networks)"
    )
)
"""The same loop, line by line, in which two networks make each step."""
_BY_HAND = SYNTH.replace("optimizer = torch.optim.Adam([images], lr=0.1)", "rate = 0.1").replace(
    "optimizer.zero_grad()", "images.grad = None"
)
BY_HAND = {
    "in place": _BY_HAND.replace("optimizer.step()", "images.data -= rate * images.grad"),
    "of a returned gradient": _BY_HAND.replace(
        "cost.backward()", "(gradient,) = torch.autograd.grad(cost, images)"
    ).replace("optimizer.step()", "images = (images - rate * gradient).detach().requires_grad_()"),
}
"""The same loop, line by line, with an update rule of its own."""
SAVING = """\
from pathlib import Path


def save(folder, label, number, image):
    text = " ".join(str(value) for value in image.detach().cpu().flatten().tolist())
    (Path(folder) / f"{label}-{number}.txt").write_text(text)
"""
INSERTIONS: Mapping[int, Sequence[str]] = MappingProxyType(
    {
        6: ["from dire_plug import bridge"],
        17: ["bridge.watch(network)"],
        19: ["    labels = bridge.labels(labels)"],
        20: ["    images = bridge.start(images, labels)"],
        21: ["    count = bridge.steps(count)"],
        26: ["        cost = bridge.loss(cost, images=images, labels=labels, step=step)"],
        30: ["        bridge.step_done(cost, images=images, labels=labels, step=step)"],
        31: ["        number = bridge.image_index(number, place)"],
    }
)
"""The line of SYNTH after which each stands → the lines: the patch that holds."""
UNNAMED_INSERTIONS: Mapping[int, Sequence[str]] = MappingProxyType(
    {
        **INSERTIONS,
        26: ["        bridge.term(images=images, labels=labels, step=step)"],
        30: ["        bridge.step_done(images=images, labels=labels, step=step)"],
    }
)
"""Likewise of UNNAMED."""
COMMITTEE_INSERTIONS: Mapping[int, Sequence[str]] = MappingProxyType(
    {
        **INSERTIONS,
        17: ["bridge.watch(networks, names=names)"],
        26: ["        cost = bridge.loss(cost, images=images, labels=labels, step=step, network=networks)"],
    }
)
"""Likewise of COMMITTEE."""


class Flags(BaseModel):
    """What a recipe may set."""

    model_config = ConfigDict(extra="forbid")

    iteration: int = 2


class LoopAdapter(PlannedAdapter):
    """The adapter; without arguments, as the child makes it, it only plans."""

    name = "loop"
    title = "A loop"
    embeddings_are_nonnegative = True
    network_names: Mapping[str, str] = MappingProxyType({"First": "teacher", "Second": "second"})
    reserved_flags: Mapping[str, str] = MappingProxyType({})
    flags = MappingProxyType({"synth": Flags})
    scripts: Mapping[str, Script] = MappingProxyType(
        {
            "synth": Script(
                SCRIPT, CLASSES, SIZE, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), "small", "bare", slots="independent"
            )
        }
    )

    def __init__(
        self, repository: str = "", commit: str = "0" * 40, folder: Path = Path(), published: str = SYNTH
    ) -> None:
        """Pin a repository with the script `published`, and with the patch in `folder`."""
        self.published = published
        if published in BY_HAND.values():
            self.scripts = {"synth": replace(self.scripts["synth"], optimized=("images",))}
        self.upstream = Upstream(repository, commit, (SCRIPT, "saving.py"), "none")
        self.folder = folder

    def patches(self) -> Path:
        """Return the folder of the patch."""
        return self.folder

    def problems(self, recipe: Any, *, classes: int | None = None) -> list[tuple[str, str]]:
        """Find nothing wrong with any recipe."""
        return []

    def plan(self, recover: Any, *, classes: int, ipc: int) -> ChunkedPlan:
        """Return two batches a pass."""
        per_class = 1 if recover.plan == "keep" else recover.plan.per_class
        return build_plan(classes=classes, ipc=ipc, slots_per_pass=2, per_class=per_class)

    def write_inputs(self, inputs: LoopInputs, script_inputs: ScriptInputs) -> None:
        """Write the weights of the script's own networks, of which the last layers are the teachers'."""
        generator = torch.Generator().manual_seed(0)
        shapes = {"1.weight": (256, 192), "1.bias": (256,)}
        weights = {name: torch.randn(shape, generator=generator) / 8 for name, shape in shapes.items()}
        heads = {
            key: {f"3.{name}": one for name, one in head_of(network.model).state_dict().items()}
            for key, network in script_inputs.teachers.items()
        }
        # a committee's networks are not in the recipe's order
        first, other = ("second", "teacher") if len(heads) > 1 else ("teacher", "teacher")
        torch.save(weights | heads[first], inputs.folder / "weights.pt")
        torch.save(weights | heads[other], inputs.folder / "weights.pt-second")

    def invocation(self, inputs: LoopInputs) -> Invocation:
        """Return the command line."""
        arguments = to_arguments(self.read_flags(inputs.recipe.recover))
        arguments += ["--weights", str(inputs.folder / "weights.pt"), "--out", str(inputs.images)]
        return Invocation(SCRIPT, tuple(arguments), {"device": {}, "torch_load": {}, "network": {}})

    def pass_arguments(self, pass_index: int, script: str) -> tuple[str, ...]:
        """Return the arguments of one pass."""
        return ("--pass", str(pass_index))

    def image_path(self, label: int, image: int) -> str:
        """Return the file of one image."""
        return f"{label}-{image}.txt"

    def verify_case(self, script: str) -> VerifyCase:
        """Return a whole pass of two iterations a batch."""
        keys = ("teacher", "second") if self.published == COMMITTEE else ("teacher",)
        recover = {"script": script, "flags": {"iteration": 2}}
        return VerifyCase(recover, dict.fromkeys(keys, "convnet-small"), steps=None)


def make_loop(folder: Path, script: str = SYNTH) -> LoopAdapter:
    """Make the repository below `folder`; return its adapter, whose patch isn't written yet."""
    repository = folder / "published"
    repository.mkdir(parents=True)
    for name, text in {SCRIPT: script, "saving.py": SAVING}.items():
        (repository / name).write_text(text)
    git(repository, "init", "--quiet", "--initial-branch=main")
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "--message=all")
    return LoopAdapter(str(repository), git(repository, "rev-parse", "HEAD"), folder / "patches", script)


def write_patch(adapter: LoopAdapter, insertions: Mapping[int, Sequence[str]]) -> None:
    """Write the patch that inserts these lines."""
    adapter.folder.mkdir(exist_ok=True)
    text = make_patch({SCRIPT: adapter.published.encode()}, {SCRIPT: insertions}, commit=adapter.upstream.commit)
    (adapter.folder / "bridge.patch").write_text(text)


def make_loop_known(folder: Path) -> None:
    """Write an entry point for the loop into `folder`, which has to be importable."""
    metadata = folder / "loop-0.1.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: loop\nVersion: 0.1\n")
    (metadata / "entry_points.txt").write_text("[dire_plug.methods]\nloop = support.loop_upstream:LoopAdapter\n")


@contextmanager
def in_this_process() -> Iterator[None]:
    """Let the block run the child's code in this process, and put back what that changes."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch, shims_put_back():
        patch.setattr(sys, "argv", sys.argv)
        patch.setattr(sys, "dont_write_bytecode", True)
        patch.setattr(sys, "path", sys.path.copy())
        yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)
    bridge.attach(None)


def run_here(jobs: Sequence[ChildJob], *, logs: Sequence[Path]) -> None:
    """Run jobs one after the other in this process, so that what a test has changed in the package acts in them."""
    for job in jobs:
        (folder := job.folder / "cwd").mkdir(exist_ok=True)
        with in_this_process(), chdir(folder):
            child.run_job(job, lambda event: None)
