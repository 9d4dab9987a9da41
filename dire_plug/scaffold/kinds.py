"""Tell what kind of script a published one is, guessed from its syntax tree, and write what an adapter of it says."""

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import get_args

from dire_plug.api.checklist import literal
from dire_plug.scaffold.script import Flag
from dire_plug.types import TORCHVISION_NAMES, CheckpointLayout


@dataclass(frozen=True)
class ScriptKind:
    """The kind of a script, in the words of `QUESTIONS`."""

    passes: str
    images: str
    loss: str
    checkpoint: str

    def __str__(self) -> str:
        """Return the words that the command prints."""
        return f"passes {self.passes}, images {self.images}, loss {self.loss}, checkpoint {self.checkpoint}"


QUESTIONS: Mapping[str, tuple[str, tuple[str, ...]]] = MappingProxyType(
    {
        "passes": ("A call of the script makes an image of each class (many), or all images (one)", ("many", "one")),
        "images": (
            "It saves each image as a file (files), or all in one file of tensors (tensor)",
            ("files", "tensor"),
        ),
        "loss": ("Its loss has a name before backward, or none, as in (a + b).backward()", ("named", "unnamed")),
        "checkpoint": (
            "The file of its trained network holds a state dict (bare), or one under a key; .module: with that prefix",
            get_args(CheckpointLayout),
        ),
    }
)
"""Field of `ScriptKind` → the question, and its answers."""

# spellings with `-`; those with `_` are found too
ROLES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "TEACHER_FLAG": (
            "weights",
            "ckpt",
            "ckpt-path",
            "checkpoint",
            "checkpoint-path",
            "teacher",
            "teacher-path",
            "arch-path",
            "arch-checkpoint",
            "model-path",
            "pretrained",
        ),
        "IMAGES_FLAG": (
            "out",
            "output",
            "output-dir",
            "out-dir",
            "save-dir",
            "save-path",
            "syn-data-path",
            "result-dir",
        ),
        "PASS_FLAG": ("round", "pass", "pass-index", "ipc-start", "ipc-id", "ipc-index"),
        "PASS_END_FLAG": ("ipc-end", "pass-end", "round-end"),
        "STEPS_FLAG": ("steps", "iteration", "iterations", "iters", "num-iterations", "n-iter"),
        "IPC_FLAG": ("ipc", "images-per-class", "ipc-number", "num-ipc"),
        "CLASSES_FLAG": ("classes", "num-classes", "n-classes", "nclass", "num-class"),
    }
)
"""Constant of an adapter → names that published scripts give to its flag."""
_REASONS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "RESERVED_DEVICE": ("device", "gpu", "gpus", "gpu-id", "gpu-device", "cuda"),
        "RESERVED_PATHS": (
            "data-dir",
            "data-path",
            "data-root",
            "real-data-path",
            "train-dir",
            "train-data-path",
            "val-dir",
            "log-dir",
            "exp-name",
        ),
        "RESERVED_DATASET": ("dataset", "data-set", "dataset-name"),
        "RESERVED_PASSES": ("class-start", "class-end"),
        "RESERVED_VERIFIER": ("verifier", "verifier-arch", "verifier-arch-path", "verifier-checkpoint"),
    }
)
_REASON_OF_ROLE: Mapping[str, str] = MappingProxyType(
    {
        "TEACHER_FLAG": "RESERVED_TEACHER",
        "IMAGES_FLAG": "RESERVED_PATHS",
        "PASS_FLAG": "RESERVED_PASSES",
        "PASS_END_FLAG": "RESERVED_PASSES",
        "IPC_FLAG": "RESERVED_IPC",
        "CLASSES_FLAG": "RESERVED_DATASET",
    }
)


def find_roles(flags: Sequence[Flag], modules: Sequence[ast.Module] = ()) -> dict[str, str]:
    """Return constant → flag, of those whose name tells what it is for, or `torch.load(args.NAME)` in a module."""
    found: dict[str, str] = {}
    known = {flag.name.replace("_", "-").lower(): flag.name for flag in flags if flag.annotation != "bool"}
    loads = (call for module in modules for call in _calls(module) if ast.unparse(call.func) == "torch.load")
    paths = [one.attr for call in loads for one in call.args[:1] if isinstance(one, ast.Attribute)]
    loaded = [name for path in paths if (name := path.replace("_", "-").lower()) not in _REASONS["RESERVED_VERIFIER"]]
    for role, usual in ROLES.items():
        names = (*usual, *loaded) if role == "TEACHER_FLAG" else usual
        # in the order of the names: the plainest first
        if match := next((known[name] for name in names if name in known), None):
            found[role] = match
    return found


def reserved(flags: Sequence[Flag], roles: Mapping[str, str]) -> dict[str, str]:
    """Return flag → the name of the reason why no recipe sets it."""
    found = {}
    for flag in flags:
        name = flag.name.replace("_", "-").lower()
        for reason, names in _REASONS.items():
            if name in names:
                found[flag.name] = reason
        for role, mine in roles.items():
            if mine == flag.name and role in _REASON_OF_ROLE:
                found[flag.name] = _REASON_OF_ROLE[role]
    return found


def guess_kind(tree: ast.Module, roles: Mapping[str, str]) -> ScriptKind:
    """Return what a script seems to be."""
    calls = [call for call in _calls(tree) if isinstance(call.func, ast.Attribute)]
    texts = {ast.unparse(call.func) for call in calls}
    keys = {literal(node.slice) for node in ast.walk(tree) if isinstance(node, ast.Subscript)}
    prefix = ".module" if any(text.endswith("DataParallel") for text in texts) else ""
    checkpoint = f"state_dict{prefix}" if "state_dict" in keys else "model" if "model" in keys else "bare"
    backward = [
        call.func.value for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "backward"
    ]
    named = all(isinstance(_unscaled(one), ast.Name | ast.Attribute | ast.Subscript) for one in backward)
    return ScriptKind(
        passes="many" if "PASS_FLAG" in roles else "one",
        images="tensor" if "torch.save" in texts else "files",
        loss="named" if named else "unnamed",
        checkpoint=checkpoint,
    )


def _unscaled(node: ast.expr) -> ast.expr:
    """Return what a GradScaler scales, where one does."""
    scaled = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "scale"
    return node.args[0] if isinstance(node, ast.Call) and scaled and node.args else node


def _calls(tree: ast.Module) -> list[ast.Call]:
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


def asks_for_weights(tree: ast.Module) -> bool:
    """Return whether a module asks torchvision, or a hub, for trained weights."""
    asked = [word for call in _calls(tree) for word in call.keywords if word.arg in ("pretrained", "weights")]
    return any(isinstance(word.value, ast.Constant) and word.value.value not in (None, False) for word in asked) or any(
        isinstance(node, ast.Attribute) and node.attr.endswith("_Weights") for node in ast.walk(tree)
    )


def find_architecture(tree: ast.Module) -> str | None:
    """Return the one network of torchvision's that a script names, in our spelling; None of none, or of two."""
    ours = {theirs: own for own, theirs in TORCHVISION_NAMES.items()}
    named = [node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    named += [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    found = {ours[name] for name in named if name in ours}
    return found.pop() if len(found) == 1 else None


# What of the adapter depends on the kind.


_TRIPLE = "tuple[float, float, float]"
_CONSTANTS: Sequence[tuple[str, str, str]] = (
    ("LICENCE", "str", 'the repository\'s licence, or "none"'),
    ("CLASSES", "int", "outputs of the network that the script needs: hard-coded, else those of the weights (1000)"),
    ("SIZE", "int", "height and width of the images that the script draws, in pixels"),
    ("MEAN", _TRIPLE, "what its normalisation takes off each channel"),
    ("STD", _TRIPLE, "what its normalisation divides each channel by"),
    ("ARCHITECTURE", "str", 'its network, as dire-plug names it, such as "resnet-18"'),
    ("STEM", "str", 'the stem of that network: "small" (3x3, no pooling) or "imagenet"'),
    ("CHECKPOINT", "str", f"the form in which it reads the weights: {', '.join(get_args(CheckpointLayout))}"),
    ("BATCHES", "int", "the number of batches into which it splits one image of each class"),
    ("TEACHER_FLAG", "str", "the flag that takes the file of the weights"),
    ("TEACHER_FILE", "str", "the path, from the script's folder, of the file of the weights, which no flag takes"),
    ("IMAGES_FLAG", "str", "the flag that takes the folder for the images"),
    ("PASS_FLAG", "str", "the flag that takes the number of the pass, from 0"),
    ("PASS_END_FLAG", "str", "the flag that takes the number after the last pass"),
    ("IPC_FLAG", "str", "the flag that takes the number of images of a class"),
    ("CLASSES_FLAG", "str", "the flag that takes the number of classes"),
    ("STEPS_FLAG", "str", "the flag that takes the number of iterations"),
    ("FILE_NAME", "str", 'the path of an image below that folder, such as "{label}-{image}.png"'),
)


def adapter_parts(
    kind: ScriptKind, roles: Mapping[str, str], architecture: str | None, *, from_hub: bool = False
) -> dict[str, str]:
    """Return what the template of an adapter names: its constants, and the members that depend on the kind.

    Args:
        from_hub: whether the script asks torchvision for trained weights.
    """
    many, files = kind.passes == "many", kind.images == "files"
    flag = "TEACHER_FLAG" in roles
    optional = {
        "TEACHER_FLAG": flag,
        "TEACHER_FILE": not flag and not from_hub,
        "PASS_FLAG": many,
        "PASS_END_FLAG": many and "PASS_END_FLAG" in roles,
        # a script without one has the number in its text
        "IPC_FLAG": not many and "IPC_FLAG" in roles,
        "CLASSES_FLAG": "CLASSES_FLAG" in roles,
        "FILE_NAME": files,
    }
    known = dict(roles) | {"CHECKPOINT": kind.checkpoint} | ({"ARCHITECTURE": architecture} if architecture else {})
    kept = [one for one in _CONSTANTS if optional.get(one[0], True)]
    own = {name for name, _, _ in kept}
    constants = [
        f"{name}: {annotation} = {quote(known[name]) if name in known else 'FILL_IN'}  # {what}"
        for name, annotation, what in kept
    ]
    flags = [f"            {name}: {_REASON_OF_ROLE[name]}," for name in _REASON_OF_ROLE if name in own]
    calls = ["watch", "labels", "start", "loss" if kind.loss == "named" else "term", "step_done"]
    # a script that makes all in one call keeps its own batches, and so its own numbers
    calls += ["image_index"] if files and many else []
    further = ""
    teacher = 'inputs.folder / "teacher.pt"'
    for name, value in (("TEACHER_FLAG", teacher), ("IPC_FLAG", "inputs.recipe.ipc"), ("CLASSES_FLAG", "CLASSES")):
        if name in own:
            further += f'        arguments += [f"--{{{name}}}", str({value})]\n'
    shims = ""
    if from_hub:
        shims = '"hub_weights": {"teacher": str(inputs.folder / "hub.pt"), "architecture": ARCHITECTURE}'
    elif not flag:
        shims = f'"files": {{"links": {{TEACHER_FILE: str({teacher})}}}}'
    return {
        "constants": "\n".join(constants),
        "reserved_lines": "\n".join(flags),
        "reasons": "".join(
            f"    {reason},\n" for reason in sorted({_REASON_OF_ROLE[one] for one in own & {*_REASON_OF_ROLE}})
        ),
        "saves_images": "" if files else "    saves_images = False\n",
        "calls": str(tuple(calls)).replace("'", '"'),
        "further_arguments": further,
        "hub_network": _HUB_NETWORK if from_hub else "",
        "shims": f"        shims = {{{shims}}}\n" if shims else "",
        "call": "FILE, tuple(arguments), shims" if shims else "FILE, tuple(arguments)",
        "plan_names": "ChunkedPlan" if many else "ListedPlan",
        "chunked_plan": "    ChunkedPlan,\n" if many else "",
        "listed_plan": "" if many else "    ListedPlan,\n",
        "slot_name": "" if many else "    Slot,\n",
        "image_path_name": "" if files else "    image_path,\n",
        "plan_body": _MANY if many else _ONE,
        "plan_problem": "" if many else _PLAN_PROBLEM,
        "pass_arguments": _pass_arguments("PASS_END_FLAG" in own) if many else "",
        "file_name": "FILE_NAME.format(label=label, image=image)" if files else 'image_path(label, image, ".png")',
        "arm": _REGROUPED if many else _ONE_OF_A_CLASS,
    }


def quote(text: str) -> str:
    """Return text as a literal that Python, TOML and YAML all read."""
    return json.dumps(text, ensure_ascii=False)


_HUB_NETWORK = """\
        write_network(script_inputs.teachers["teacher"], inputs.folder / "hub.pt", "bare")
"""
_MANY = """\
        per_class = 1 if recover.plan == "keep" else recover.plan.per_class
        return build_plan(classes=classes, ipc=ipc, slots_per_pass=BATCHES, per_class=per_class)"""
_ONE = """\
        # one image of each class after the other; a script that goes class by class: cut_plan(class_by_class(…), …),
        # with pass_size=ipc, and `pass_arguments`, where a call may make one class alone
        passes = build_plan(classes=classes, ipc=ipc, slots_per_pass=BATCHES)
        slots = (Slot(image, batch) for image in range(ipc) for batch in range(BATCHES))
        return ListedPlan(tuple(passes.slot(slot) for slot in slots), classes)"""
_PLAN_PROBLEM = """\
        if recipe.recover.plan != "keep":
            found.append(("recover.plan", "the script makes all images in one call, in its own batches; take it out"))
"""
_REGROUPED = """\
  # Two images of a class in a batch, so that a term can compare them; take the overrides out where the script draws a
  # fixed number of images.
  dire:
    overrides: {recover: {plan: {per_class: 2}}}
    regularizers: {dire: {}}"""

_ONE_OF_A_CLASS = """\
  # As `plan` of the adapter has it, a batch holds one image of a class, so a term has no other to compare it with, and
  # `bank` stands for that: the images that are finished. Take it out where the script's batches hold several.
  dire:
    overrides: {recover: {bank: true}}
    regularizers: {dire: {}}"""
ONE_OF_A_CLASS = (
    "a batch is taken to hold one image of a class: let `plan` of the adapter say it where the script's hold several, "
    "or a term has no pair but those with finished images (`bank: true` in the quick recipe)"
)


def _pass_arguments(with_end: bool) -> str:
    end = ', f"--{PASS_END_FLAG}", str(pass_index + 1)' if with_end else ""
    return f'''
    def pass_arguments(self, pass_index: int, script: str) -> tuple[str, ...]:
        """Return what makes the script run one pass alone."""
        return (f"--{{PASS_FLAG}}", str(pass_index){end})
'''
