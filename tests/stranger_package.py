"""A stranger's package: a method and a regularizer that join through entry points and public hooks alone."""

from dataclasses import dataclass
from pathlib import Path

from toy_upstream import git

from dire_plug.upstream.patching import make_patch

SCRIPT = "src/synth.py"
SYNTH = """\
import argparse
import random

import torch
import torchvision
from saving import save
from torch import nn

parser = argparse.ArgumentParser()
parser.add_argument("--weights")
parser.add_argument("--out")
parser.add_argument("--steps", type=int)
parser.add_argument("--lr", type=float)
parser.add_argument("--round", dest="number", type=int)
arguments = parser.parse_args()
number = arguments.number
network = torchvision.models.get_model("resnet18", num_classes=10)
network.conv1 = nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False)
network.maxpool = nn.Identity()
network.load_state_dict(torch.load(arguments.weights))
network = network.eval().requires_grad_(False).cuda()
labels = torch.arange(10).cuda()
images = torch.randn((10, 3, 8, 8), device="cuda", requires_grad=True)
optimizer = torch.optim.Adam([images], lr=arguments.lr)
for step in range(arguments.steps):
    moved = torch.roll(images, random.randint(0, 1), 3)
    cost = nn.functional.cross_entropy(network(moved), labels)
    optimizer.zero_grad()
    cost.backward()
    optimizer.step()
    images.data.clamp_(-2, 2)
for place in range(len(images)):
    save(arguments.out, int(labels[place]), number, images[place])
"""
SAVING = """\
from pathlib import Path

from PIL import Image


def save(folder, label, number, image):
    pixels = ((image.detach().cpu() * 0.25 + 0.5).clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(Path(folder) / f"{label}-{number}.png")
"""
INSERTIONS: dict[str, dict[int, list[str]]] = {
    SCRIPT: {
        7: ["from dire_plug import bridge"],
        21: ["bridge.watch(network)"],
        22: ["labels = bridge.labels(labels)"],
        23: ["images = bridge.start(images, labels)"],
        27: ["    cost = bridge.loss(cost, images=images, labels=labels, step=step)"],
        31: ["    bridge.step_done(cost, images=images, labels=labels, step=step)"],
        32: ["    number = bridge.image_index(number, place)"],
    }
}
METHOD = '''\
"""The stranger's method."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from dire_plug.hookspecs import hookimpl
from dire_plug.plans import build_plan
from dire_plug.types import Invocation, Script, Upstream, VerifyCase

HERE = Path(__file__).parent


class Flags(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int = 4
    lr: float = 0.1


class Toy:
    name = "toy-net"
    title = "The toy"
    upstream = Upstream(REPOSITORY, COMMIT, ("src",), "none")
    owned_flags = {"out": "the tool chooses where files lie"}
    embeddings_are_nonnegative = True
    saves_images = True
    freezes_after_first_step = False
    scripts = {
        "synth": Script("src/synth.py", 10, 8, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), "small", "bare"),
    }

    def patches(self):
        return HERE / "patches"

    def recipes(self):
        return HERE / "recipes"

    def flags_model(self, script):
        return Flags

    def problems(self, recipe, *, classes=None):
        return []

    def steps(self, recover):
        return Flags(**recover.flags).steps

    def has_native(self, script):
        return False

    def plan(self, recover, *, classes, ipc):
        per_class = 1 if recover.plan == "keep" else recover.plan.per_class
        return build_plan(classes=classes, ipc=ipc, slots_per_pass=1, per_class=per_class)

    def whitens(self, recover):
        return False

    def preparations(self, inputs):
        return ()

    def lay_out(self, inputs, materials):
        from dire_plug.models.checkpoint import write_for_upstream

        write_for_upstream(materials.teachers["teacher"].model, inputs.folder / "weights.pt", "bare")

    def verify_case(self, script):
        return VerifyCase(recover={"script": script, "flags": {"steps": 2}}, teachers={"teacher": "resnet-18"}, steps=2)

    def invocation(self, inputs):
        flags = Flags(**inputs.recipe.recover.flags)
        arguments = ("--weights", inputs.folder / "weights.pt", "--out", inputs.images, "--steps", flags.steps)
        arguments += ("--lr", flags.lr)
        shims = {"device": {}, "torch_load": {}, "network": {}}
        architecture = inputs.recipe.squeeze.teacher.architecture
        shims["get_model"] = {"replace": "resnet18", "architecture": architecture}
        return Invocation("src/synth.py", tuple(map(str, arguments)), shims)

    def pass_arguments(self, pass_index):
        return ("--round", str(pass_index))

    def image_path(self, label, image):
        return f"{label}-{image}.png"

    @hookimpl
    def image_index(self, synthesis, slot, position):
        return synthesis.plan.slot(slot).images[position]
'''
TERM = '''\
"""The stranger's regularizer: spreads embeddings, and pushes each pass away from the one before."""

from pydantic import BaseModel, ConfigDict

from dire_plug.hookspecs import hookimpl


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    weight: float = 1.0
    broken_from: int | None = None


class Spread:
    settings_model = Settings

    def __init__(self, settings):
        self.settings = settings

    @hookimpl
    def loss_term(self, synthesis, batch):
        kept = synthesis.state(self)
        term = -batch.embeddings.var(dim=0, correction=0).mean()
        if "mean" in kept:
            term = term + batch.embeddings.mean(dim=0) @ kept["mean"]
        first = self.settings.broken_from
        is_broken = first is not None and batch.slot.pass_index >= first
        return self.settings.weight * term * (float("nan") if is_broken else 1)

    @hookimpl
    def step_done(self, synthesis, batch, losses):
        assert set(losses) == {"upstream", "spread"}
        self.last = batch.embeddings.mean(dim=0)

    @hookimpl
    def slot_done(self, synthesis):
        synthesis.state(self)["mean"] = self.last
'''
RECIPE = """\
title: The toy on digits
method: toy-net
upstream:
  repository: REPOSITORY
  commit: COMMIT
dataset: {name: digits, limit: 100}
ipc: 3
squeeze:
  outputs: 10
  teacher: {architecture: resnet-small, epochs: 1, batch_size: 64, lr: 0.05, augmentation: none}
  independent: {architecture: convnet-small, epochs: 1, batch_size: 64, augmentation: none}
recover:
  script: synth
  flags: {steps: 4}
evaluate: {protocol: on-the-fly, students: [convnet-small], epochs: 2, batch_size: 10, augmentation: none}
arms:
  dire: {regularizers: {dire: {}}}
"""
ENTRY_POINTS = """\
[dire_plug.methods]
toy-net = stranger.method:Toy

[dire_plug.regularizers]
spread = stranger.term:Spread
"""


@dataclass(frozen=True)
class Stranger:
    """Where the package and the published repository of its method lie."""

    site: Path
    repository: Path
    commit: str

    @property
    def patch(self) -> Path:
        """The package's own patch."""
        return self.site / "stranger" / "patches" / "bridge.patch"


def make_stranger(folder: Path) -> Stranger:
    """Make the repository of the method, and the package, installed in `folder/site`."""
    repository, site = folder / "published", folder / "site"
    for name, text in {SCRIPT: SYNTH, "src/saving.py": SAVING}.items():
        write(repository / name, text)
    git(repository, "init", "--quiet", "--initial-branch=main")
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "--message=all")
    commit = git(repository, "rev-parse", "HEAD")
    constants = f"REPOSITORY, COMMIT = {str(repository)!r}, {commit!r}\n\n"
    files = {
        "stranger/__init__.py": "",
        "stranger/method.py": METHOD.replace("HERE =", f"{constants}HERE =", 1),
        "stranger/term.py": TERM,
        "stranger/patches/bridge.patch": make_patch({SCRIPT: SYNTH.encode()}, INSERTIONS, commit=commit),
        "stranger/recipes/small.yaml": RECIPE.replace("REPOSITORY", str(repository)).replace("COMMIT", f"'{commit}'"),
    }
    for name, text in files.items():
        write(site / name, text)
    offer(site, "stranger", ENTRY_POINTS)
    return Stranger(site, repository, commit)


def offer(site: Path, package: str, entry_points: str) -> None:
    """Write the metadata that make an installed package's entry points known."""
    folder = site / f"{package}-1.0.dist-info"
    write(folder / "METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    write(folder / "entry_points.txt", entry_points)


def write(path: Path, text: str) -> None:
    """Write a text file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
