"""The toy's adapter: also the plugin that answers its plan and start hooks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from dire_plug.api.method import (
    RESERVED_PASSES,
    RESERVED_PATHS,
    RESERVED_TEACHER,
    ChunkedPlan,
    Flags,
    Invocation,
    LoopInputs,
    PlannedAdapter,
    Script,
    ScriptInputs,
    Upstream,
    VerifyCase,
    build_plan,
    teacher_problems,
    to_arguments,
    write_network,
)

HERE = Path(__file__).parent
FILE = "src/synth.py"
CLASSES = 10
WEIGHTS = "weights.pt"


class ToyFlags(Flags):
    """What a recipe may set, in upstream's spelling."""

    steps: int = Field(default=4, ge=1)
    lr: float = Field(default=0.1, gt=0)


class Toy(PlannedAdapter):
    """The adapter; made without arguments, here and in the child process."""

    name = "toy-net"
    title = "The toy"
    upstream = Upstream(
        repository="https://example.org/toy-net",
        commit="0606ebab5d4a0786c385088fb50ec2647e5eab59",
        paths=("src",),
        licence="none",
    )
    scripts = {
        "synth": Script(
            path=FILE,
            classes=CLASSES,
            size=8,
            mean=(0.5, 0.5, 0.5),
            std=(0.25, 0.25, 0.25),
            stem="small",
            checkpoint="bare",
        )
    }
    flags = {"synth": ToyFlags}
    reserved_flags = {
        "weights": RESERVED_TEACHER,
        "out": RESERVED_PATHS,
        "round": RESERVED_PASSES,
    }
    embeddings_are_nonnegative = True

    def patches(self) -> Path:
        return HERE / "patches"

    def recipes(self) -> Path:
        return HERE / "recipes"

    def problems(self, recipe: Any, *, classes: int | None = None) -> Sequence[tuple[str, str]]:
        found = teacher_problems(recipe, ("resnet-18", "resnet-small"))
        if classes is not None and classes > CLASSES:
            found.append(("recover.script", f"the script knows {CLASSES} classes, not {classes}"))
        return found

    def steps(self, recover: Any) -> int:
        flags: ToyFlags = self.read_flags(recover)
        return flags.steps

    def plan(self, recover: Any, *, classes: int, ipc: int) -> ChunkedPlan:
        per_class = 1 if recover.plan == "keep" else recover.plan.per_class
        return build_plan(classes=classes, ipc=ipc, slots_per_pass=1, per_class=per_class)

    def write_inputs(self, inputs: LoopInputs, script_inputs: ScriptInputs) -> None:
        write_network(script_inputs.teachers["teacher"], inputs.folder / WEIGHTS, "bare")

    def invocation(self, inputs: LoopInputs) -> Invocation:
        recipe = inputs.recipe
        arguments = to_arguments(self.read_flags(recipe.recover))
        arguments += ["--weights", str(inputs.folder / WEIGHTS), "--out", str(inputs.images)]
        shims = {}
        if (architecture := recipe.squeeze.teacher.architecture) != "resnet-18":
            shims["get_model"] = {"replace": "resnet18", "architecture": architecture}
        return Invocation(FILE, tuple(arguments), shims)

    def pass_arguments(self, pass_index: int, script: str) -> Sequence[str]:
        return ("--round", str(pass_index))

    def image_path(self, label: int, image: int) -> str:
        return f"{label}-{image}.png"

    def verify_case(self, script: str) -> VerifyCase:
        recover = {"script": script, "flags": {"steps": 2}}
        return VerifyCase(recover=recover, teachers={"teacher": "resnet-18"}, steps=None)
