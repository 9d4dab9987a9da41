"""DM, distribution matching, as DC-BENCH runs it: `methods/dc/main_DM.py` for CIFAR-10 and CIFAR-100.

Each iteration draws a new untrained network and matches, class by class, the mean embeddings of real and synthetic
images. It saves one file of all images at the end; the tool takes the tensors and writes a file for each image.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

from pydantic import Field

from dire_plug.api.method import (
    RESERVED_PATHS,
    RESERVED_START,
    RESERVED_UNREAD,
    Flags,
    Invocation,
    LoopInputs,
    LoopWork,
    Script,
    Upstream,
    VerifyCase,
    cifar_script,
    to_arguments,
    with_own_dataset,
    with_slots,
)
from dire_plug.methods.matching_family import (
    DSA,
    OWN_FILES,
    RESERVED_EVALUATION,
    MatchingAdapter,
    common_arguments,
    common_shims,
)
from dire_plug.recipe.values import Operations

# The flags of DM's script: in upstream's spelling, with upstream's defaults.


class DMFlags(Flags):
    """`methods/dc/main_DM.py`."""

    model: Literal["ConvNet", "ConvNetW32", "ConvNetW64", "ConvNetBN"] = "ConvNet"
    """The untrained network in which means are matched, new in each iteration."""
    Iteration: int = Field(default=20000, ge=1)
    lr_img: float = Field(default=1.0, gt=0)
    batch_real: int = Field(default=256, ge=1)
    """Real images of a class in one iteration."""
    dsa_strategy: Operations = DSA


IPC = (1, 10, 20, 30, 40, 50)
"""The only ones that the script starts with (`get_loops`, utils.py 275), although its loop doesn't need them."""
_FILE = "methods/dc/main_DM.py"
_CIFAR_100 = ((0.5071, 0.4866, 0.4409), (0.2673, 0.2564, 0.2762))
"""Mean and standard deviation, rounded otherwise than other scripts do."""

_PINS = {
    _FILE: "6e0439acea824714fc514496d27ded6dffa71df2",
    "methods/dc/utils.py": "2fc134f88fc77c5dc6bb8833f7a88392f549da6a",
    "methods/dc/networks.py": "cdebf2ea016b337517d419301e6996c096b777ba",
}
"""Path to fetch → git's hash of it at the pinned commit."""


class DM(MatchingAdapter):
    """The adapter of DM, and the plugin that answers its plan and start hooks."""

    name = "dm"
    title = "DM"
    upstream = Upstream(
        repository="https://github.com/justincui03/dc_benchmark",
        commit="2a57711961670859ea4c3102b766d1b16f7dea85",
        paths=tuple(_PINS),
        licence="MIT",
        pins=_PINS,
    )
    scripts: Mapping[str, Script] = with_slots(
        with_own_dataset(
            {
                "cifar-10": cifar_script(_FILE, 10, checkpoint="bare"),
                "cifar-100": cifar_script(_FILE, 100, checkpoint="bare", statistics=_CIFAR_100),
            }
        ),
        "none",
    )
    reserved_flags: Mapping[str, str] = MappingProxyType(
        {
            **MatchingAdapter.reserved_flags,
            "num_exp": "a run is one experiment; `--seeds` runs several",
            "lr_net": RESERVED_EVALUATION,
            "init": RESERVED_START,
            "save_path": RESERVED_PATHS,
            "dis_metric": RESERVED_UNREAD,
        }
    )
    flags = MappingProxyType({"cifar-10": DMFlags, "cifar-100": DMFlags})
    embedders = ("teacher", "loop")

    def problems(self, recipe: Any, *, classes: int | None = None) -> list[tuple[str, str]]:
        """Return (dotted key, message) of what doesn't fit together in a recipe; `classes` of the dataset, if known."""
        found = super().problems(recipe, classes=classes)
        if recipe.ipc not in IPC:
            known = ", ".join(map(str, IPC[:-1]))
            found.append(("ipc", f"DM's script starts with {known} or {IPC[-1]} images a class only (is {recipe.ipc})"))
        if recipe.prepare:
            found.append(("prepare", f"DM needs nothing prepared; remove {', '.join(recipe.prepare)}"))
        if getattr(recipe.evaluate, "whiten", False) and recipe.evaluate.source == "tensor":
            found.append(("evaluate.whiten", "DM's images are normalised, not whitened; set it to false"))
        return found

    def work(self, recipe: Any) -> LoopWork:
        """Return that an iteration embeds real images of every class too, in an untrained network."""
        flags: DMFlags = self.read_flags(recipe.recover)
        return LoopWork(
            "convnet-3" if flags.model in ("ConvNet", "ConvNetBN") else "convnet-3-w32", real=flags.batch_real
        )

    def invocation(self, inputs: LoopInputs) -> Invocation:
        """Return the command line of upstream's script, and the shims that it needs."""
        recover = inputs.recipe.recover
        arguments = [*to_arguments(self.read_flags(recover)), *common_arguments(recover, inputs.recipe.ipc)]
        arguments += ["--num_exp", "1", "--init", recover.start]
        arguments += ["--data_path", str(inputs.folder), "--save_path", str(inputs.images / OWN_FILES)]
        shims = common_shims(inputs, seed=inputs.seed) | {"setitem_alias": {}}
        return Invocation(_FILE, tuple(arguments), shims)

    def verify_case(self, script: str) -> VerifyCase:
        """Return three whole iterations with one image a class, the case that needs a shim, to the saved end.

        The answered run takes the branch for batch normalisation, and the loop's own network embeds.
        """
        flags = {"Iteration": 2, "batch_real": 2, "model": "ConvNetW32"}
        return VerifyCase(
            recover={"script": script, "flags": flags, "start": "real", "embedder": {"classes_per_step": 5}},
            teachers={"teacher": "convnet-3"},
            real_per_class=2,
            steps=None,
            answered={"flags": {"model": "ConvNetBN"}, "embedder": {"network": "loop"}},
            answered_ipc=1,
        )
