"""A run of a stub's on 60 tiny images of three classes, for tests that call stages one by one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
from pydantic import TypeAdapter
from torch import Tensor

from dire_plug.data import Dataset
from dire_plug.data.dataset import make_tensor_dataset
from dire_plug.recipe import Recipe, Resolved
from dire_plug.recipe.evaluate import Evaluate, EvaluateSection
from dire_plug.recipe.model import SqueezeSection
from dire_plug.stages.artefacts import Source
from dire_plug.stages.images import ImageSet
from dire_plug.stages.real_images import select_random
from dire_plug.stages.squeeze import squeeze
from dire_plug.store.artefacts import Store
from dire_plug.store.runs import Request, Run
from dire_plug.training import loop as training
from dire_plug.types import Adapter, Script

CPU = torch.device("cpu")
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
NETWORK = {"architecture": "convnet-small", "epochs": 12, "lr": 0.1, "batch_size": 8, "padding": 1}
RECIPE: dict[str, Any] = {
    "name": "tiny",
    "title": "Tiny",
    "method": "stub",
    "upstream": {"repository": "somewhere", "commit": "0" * 40},
    "dataset": {"name": "stub"},
    "ipc": 2,
    "squeeze": {"outputs": 4, "teacher": NETWORK, "independent": NETWORK},
    "recover": {"script": "only", "flags": {}},
    "evaluate": {
        "protocol": "on-the-fly",
        "students": ["convnet-small"],
        "per_synthesis": 2,
        "epochs": 2,
        "lr": 0.01,
        "teacher_mode": "train",
    },
    "measure": {"nearest_k": 2},
}


@dataclass(frozen=True)
class StubAdapter:
    """Saves like SRe2L, in PNG.

    Attributes:
        whitened: whether it says that its loop's images are whitened.
    """

    name: str = "stub"
    whitened: bool = False
    scripts: Mapping[str, Script] = field(
        default_factory=lambda: {
            "only": Script("only.py", classes=4, size=8, mean=MEAN, std=STD, stem="small", checkpoint="bare")
        }
    )

    def image_path(self, label: int, image: int) -> str:
        """Return where an image lies."""
        return f"new{label:03d}/class{label:03d}_id{image:03d}.png"

    def whitens(self, recover: Any) -> bool:
        """Tell whether the loop's images are whitened."""
        return self.whitened


def make_dataset(*, per_class: int = 15) -> Dataset:
    """Make three classes of noise, with bright columns, bright rows, or neither, in mixed order."""

    def draw(count: int, seed: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        labels = (torch.arange(3).repeat(count))[torch.randperm(3 * count, generator=generator)]
        pixels = torch.randint(0, 90, (3 * count, 3, 8, 8), generator=generator)
        bright = 150 * (torch.arange(8) // 2 % 2)
        pixels[labels == 0] += bright
        pixels[labels == 1] += bright[:, None]
        return pixels.to(torch.uint8), labels

    return make_tensor_dataset(
        "stub", train=draw(per_class, 0), test=draw(5, 1), classes=("columns", "rows", "neither")
    )


def make_run(store: Path, *, seed: int = 3) -> Run:
    """Return a run of the stub's whose store is the test's own."""
    recipe = Recipe.model_validate(RECIPE)
    return Run(
        request=Request("stub", seed=seed, device="cpu"),
        adapter=cast(Adapter, StubAdapter()),
        source=Path("tiny.yaml"),
        resolved=Resolved(recipe, {}, {}, "baseline"),
        engine="native",
        data=make_dataset(),
        own_store=Store(store),
    )


def change(run: Run, **sections: object) -> Run:
    """Return the run with other sections of its recipe."""
    return replace(run, resolved=replace(run.resolved, recipe=run.recipe.model_copy(update=sections)))


def with_seed(run: Run, seed: int) -> Run:
    """Return the run with another seed."""
    return replace(run, request=replace(run.request, seed=seed))


def with_adapter(run: Run, adapter: StubAdapter) -> Run:
    """Return the run of another stub."""
    return replace(run, adapter=cast(Adapter, adapter))


def with_store(run: Run, root: Path) -> Run:
    """Return the run with another store."""
    return replace(run, own_store=Store(root))


def image_set(images: Tensor, labels: Tensor, **more: Any) -> ImageSet:
    """Return images as stages take them, told by their content."""
    told = [images.dtype.__str__(), images.flatten().tolist(), labels.tolist()]
    return ImageSet(Source(digest=told), lambda: (images, labels), name="set", **more)


def random_set(run: Run, *, ipc: int, seed: int, **more: Any) -> ImageSet:
    """Return real images of the run's dataset."""
    return image_set(*select_random(run.dataset, ipc=ipc, seed=seed), **more)


def killing(epochs: int) -> Callable[..., Any]:
    """Return a `train` that is killed after some epochs."""
    genuine = training.train

    def killed_train(*arguments: Any, **named: Any) -> Any:
        def progress(done: int, **values: float) -> None:
            if done == epochs:
                raise KeyboardInterrupt

        return genuine(*arguments, **{**named, "progress": progress})

    return killed_train


def with_networks(run: Run) -> Run:
    """Return a run whose recipe has the networks of two teachers."""
    section = {"outputs": 4, "teacher": NETWORK, "independent": NETWORK, "others": {"second": {**NETWORK, "lr": 0.05}}}
    return change(run, squeeze=SqueezeSection.model_validate(section))


def section_of(protocol: str, **keys: Any) -> EvaluateSection:
    """Return the section of a protocol with these values, for one student."""
    values = {"protocol": protocol, "students": ["convnet-small"], **keys}
    section: EvaluateSection = TypeAdapter[Any](Evaluate).validate_python(values)
    return section


def with_section(run: Run, protocol: str, **keys: Any) -> Run:
    """Return a run whose recipe names a protocol, with these values of its section."""
    return change(run, evaluate=section_of(protocol, **keys))


def store_with_networks(root: Path) -> Path:
    """Train these networks into a store below `root`, so that tests can copy it; return `root`."""
    squeeze(with_networks(make_run(root)))
    return root
