"""CV-DD: several networks vote in each step of SRe2L's loop; each pass takes a committee of those that the recipe has.

Committees are drawn at random, or come from a list, by a setting of the script. The loss weighs the networks' own
equally, at random, or by how well each did alone: numbers that the script holds for each dataset.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

from pydantic import Field

from dire_plug.api.method import VerifyCase
from dire_plug.methods.cvdd_family import LARGE, NAMES, QUICK, SMALL, CommitteeAdapter, CommitteeFlags

_ALL = tuple(NAMES)
_FEWER = ("teacher", "resnet50", "shufflenet")
COMMITTEES: Mapping[int, Sequence[str]] = MappingProxyType(
    {
        1: ("teacher", "resnet50", "shufflenet", "densenet"),
        2: ("teacher", "resnet50", "shufflenet", "mobilenet"),
        3: _ALL,
        5: _ALL,
        6: _ALL,
        7: _FEWER,
    }
)
"""`model-setting` → keys of the networks of which it takes committees; 4 depends on the dataset."""
_PAIRS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "cifar-10": ("mobilenet", "densenet"),
        "imagenette": ("mobilenet", "densenet"),
        "cifar-100": ("shufflenet", "mobilenet"),
        "tiny": ("teacher", "mobilenet"),
        "imagenet": ("teacher", "shufflenet"),
    }
)
"""Script → the two networks of setting 4."""
LISTED = {5: 2, 6: 3}
"""A setting whose committees come from a list → how many networks each has."""
LIST_LENGTH = 10


class VoterFlags(CommitteeFlags):
    """`recover/recover.py` as a committee; upstream's default of `model-setting` is 0, which is SRe2L++."""

    model_setting: int = Field(default=3, alias="model-setting", ge=1, le=7)
    """3: a committee drawn from all five in each pass; 5: the next of ten pairs; 4: one pair. 7: three of them."""
    selected_size: int = Field(default=2, alias="selected-size", ge=1, le=5)
    """Networks of a committee that is drawn."""
    voter_type: Literal["equal", "random", "prior"] = Field(default="prior", alias="voter-type")
    weight_temperature: int = Field(default=5, alias="weight-temperature", ge=1)
    """Divides the prior numbers before their softmax."""


class CVDD(CommitteeAdapter):
    """The adapter of CV-DD, and the plugin that answers its plan and start hooks."""

    name = "cv-dd"
    title = "CV-DD"
    flags = MappingProxyType(dict.fromkeys(CommitteeAdapter.scripts, VoterFlags))

    def network_problems(self, recipe: Any) -> list[tuple[str, str]]:
        """Return what is wrong with the networks, and with the committees that are taken of them."""
        recover, given = recipe.recover, ("teacher", *recipe.squeeze.others)
        flags, found = self.read_flags(recover), super().network_problems(recipe)
        committee = take_committee(recover.script, flags.model_setting)
        if missing := [key for key in committee if key not in given]:
            message = f"model-setting {flags.model_setting} takes {', '.join(committee)}; add {', '.join(missing)}"
            found.append(("squeeze.others", message))
        if flags.model_setting in LISTED:
            per_class = 1 if recover.plan == "keep" else recover.plan.per_class
            if (passes := -(-recipe.ipc // per_class)) > LIST_LENGTH:
                message = f"lists {LIST_LENGTH} committees, one for a pass, but there are {passes} passes; take 3"
                found.append(("recover.flags.model-setting", message))
        elif flags.selected_size > len(committee):
            message = f"model-setting {flags.model_setting} has {len(committee)} networks to draw from"
            found.append(("recover.flags.selected-size", f"{message} (is {flags.selected_size})"))
        return found

    def networks_in_step(self, recover: Any) -> int:
        """Return the size of a committee."""
        flags: VoterFlags = self.read_flags(recover)
        return LISTED.get(flags.model_setting, flags.selected_size)

    def verify_case(self, script: str) -> VerifyCase:
        """Return one whole batch of two iterations, so that it is saved, and the first step of the next batch.

        Committees are drawn, listed, or one pair. The answered run has two batches of two classes.
        """
        setting = {"cifar-10": 3, "cifar-100": 5, "imagenette": 7}.get(script, 4)
        flags = {"batch-size": 2 if script == "imagenet" else 5, "iteration": 2, "model-setting": setting}
        keys = dict.fromkeys(("teacher", *take_committee(script, setting)))
        built = LARGE if self.scripts[script].stem == "imagenet" else SMALL
        if script == "cifar-10":  # small ones, which a shim builds; the others' are upstream's own
            built = dict(zip(NAMES, (*QUICK, QUICK[0]), strict=True))
        return VerifyCase(
            recover={"script": script, "flags": flags | {"apply-data-augmentation": True}},
            teachers={key: built[key] for key in keys},
            answered={
                "start": "real",
                "plan": {"per_class": 2},
                "flags": {"batch-size": self.scripts[script].classes // 2},
            },
            answered_classes=4,
        )


def take_committee(script: str, setting: int) -> Sequence[str]:
    """Return the keys of the networks of which a setting takes its committees."""
    return _PAIRS[script] if setting == 4 else COMMITTEES[setting]
