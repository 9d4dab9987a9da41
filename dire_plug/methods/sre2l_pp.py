"""SRe2L++: SRe2L's loop with one network, as CV-DD's authors run it by the recover script of CV-DD (its setting 0)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dire_plug.api.method import Invocation, LoopInputs, VerifyCase, teacher_problems
from dire_plug.home import resource
from dire_plug.methods.cvdd_family import CommitteeAdapter, CommitteeFlags

_COMMITTEE = "one network makes every step; a committee is the method cv-dd"


class SRe2LPlusPlus(CommitteeAdapter):
    """The adapter of SRe2L++, and the plugin that answers its plan and start hooks."""

    name = "sre2l-pp"
    title = "SRe2L++"
    flags = MappingProxyType(dict.fromkeys(CommitteeAdapter.scripts, CommitteeFlags))
    reserved_flags: Mapping[str, str] = MappingProxyType(
        {
            **CommitteeAdapter.reserved_flags,
            **dict.fromkeys(("model-setting", "selected-size", "voter-type", "weight-temperature"), _COMMITTEE),
        }
    )

    def patches(self) -> Path:
        """Return the folder of the patch of CV-DD's script."""
        return resource("patches") / "cv-dd"

    def network_problems(self, recipe: Any) -> list[tuple[str, str]]:
        """Return what is wrong with the teacher."""
        return teacher_problems(recipe, self.known_architectures(recipe.recover.script, "teacher"))

    def invocation(self, inputs: LoopInputs) -> Invocation:
        """Return the command line of upstream's script for a single network, and the shims that it needs."""
        call = super().invocation(inputs)
        alone = ("--model-setting", "0", "--selected-size", "1", "--voter-type", "equal")
        return replace(call, arguments=(*call.arguments, *alone))

    def verify_case(self, script: str) -> VerifyCase:
        """Return one whole batch of two iterations, so that it is saved, and the first step of the next batch.

        The answered run has two batches of two classes.
        """
        return VerifyCase(
            recover={
                "script": script,
                "flags": {
                    "batch-size": 2 if script == "imagenet" else 5,
                    "iteration": 2,
                    "apply-data-augmentation": True,
                },
            },
            teachers={"teacher": "resnet-18"},
            answered={
                "start": "real",
                "plan": {"per_class": 2},
                "flags": {"batch-size": self.scripts[script].classes // 2},
            },
            answered_classes=4,
        )
