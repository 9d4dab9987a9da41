"""What is read of a published script: its flags as facts, what it imports, where an import can stand."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from dire_plug.api.method import to_arguments
from dire_plug.errors import DirePlugError
from dire_plug.files import write_atomically
from dire_plug.scaffold.kinds import ScriptKind, adapter_parts, asks_for_weights, find_roles, reserved
from dire_plug.scaffold.package import fill_templates
from dire_plug.scaffold.script import (
    Flag,
    end_of_imports,
    field_name,
    flag_lines,
    parse,
    pydantic_names,
    read_facts,
    read_flags,
    typing_names,
)

EVERY_KIND = """\
parser = argparse.ArgumentParser()
parser.add_argument("place")
parser.add_argument("-s")
parser.add_argument("-j", "--workers", default=4, type=int, help="a sentence of theirs")
parser.add_argument("--lr", type=float, default=1)
parser.add_argument("--r-bn", type=float, default=5e-2)
parser.add_argument("--name", default="a \\"b\\"")
parser.add_argument("--number", type=int, default=1e3)
parser.add_argument("--computed", type=str, default=os.getcwd())
parser.add_argument("--converted", type=lambda text: text.split(","))
parser.add_argument("--flag", action="store_true", default=True)
parser.add_argument("--no-flag", action="store_false")
parser.add_argument("--several", nargs="+")
parser.add_argument("--maybe", nargs="?")
parser.add_argument("--wb", type=str2bool, nargs="?", const=True, default=False)
parser.add_argument("--on", type=str2bool, nargs="?", const=True, default=True)
parser.add_argument("--verbose", action="count")
parser.add_argument("--limit", type=float, default=1e999)
parser.add_argument("--mode", choices=["a", "b"], default="b")
parser.add_argument("--size", type=int, choices=[32, 64])
parser.add_argument("--lambda", type=float)
parser.add_argument("--copy")
parser.add_argument("--lr", type=int)
"""


def model_of(script: str) -> type[BaseModel]:
    """Return the model that the package of a script would have."""
    flags, _ = read_flags(ast.parse(script))
    values = {
        **dict.fromkeys(("name", "distribution", "module", "repository", "commit", "paths", "pins", "packages"), "x"),
        **dict.fromkeys(("script", "script_path", "script_name", "folder"), "x"),
        "flag_lines": flag_lines(flags),
        "typing_names": typing_names(flags),
        "pydantic_names": pydantic_names(flags),
        "flag_reasons": "",
        "reserved_flags": "{}",
        **dict.fromkeys(("constants", "reserved_lines", "reasons", "saves_images", "calls", "further_arguments"), ""),
        **dict.fromkeys(("plan_names", "chunked_plan", "listed_plan", "slot_name", "image_path_name", "plan_body"), ""),
        **dict.fromkeys(("plan_problem", "pass_arguments", "file_name", "arm", "hub_network", "shims", "call"), ""),
    }
    space: dict[str, Any] = {"__name__": "flags"}
    exec(fill_templates("method", values)["x/flags.py"], space)
    model: type[BaseModel] = space["ScriptFlags"]
    return model


@pytest.mark.parametrize(
    ("passes", "images", "needed"), [("many", "files", True), ("one", "files", False), ("many", "tensor", False)]
)
def test_only_files_numbered_by_the_pass_need_image_index(passes: str, images: str, needed: bool) -> None:
    kind = ScriptKind(passes=passes, images=images, loss="named", checkpoint="state_dict")
    assert ("image_index" in adapter_parts(kind, {}, None)["calls"]) == needed


def test_flags_have_their_types_and_their_plain_defaults() -> None:
    flags, others = read_flags(ast.parse(EVERY_KIND))
    assert flags == [
        Flag("workers", "int", 4),
        Flag("lr", "float", 1.0),
        Flag("r-bn", "float", 0.05),
        Flag("name", "str", 'a "b"'),
        Flag("number", "int", None),
        Flag("computed", "str", None),
        Flag("converted", "str", None),
        Flag("flag", "bool", False),
        Flag("no-flag", "bool", False),
        Flag("several", "list[str]", None),
        Flag("wb", "bool", False),
        Flag("limit", "float", None),
        Flag("mode", 'Literal["a", "b"]', "b"),
        Flag("size", "Literal[32, 64]", None),
        Flag("lambda", "float", None),
        Flag("copy", "str", None),
    ]
    assert others == ["place", "-s", "--maybe", "--on", "--verbose"]


def test_the_model_gives_upstreams_command_line_back() -> None:
    given = {"lambda": 0.5, "copy": "x", "no-flag": True, "wb": True, "size": 64, "mode": "a", "several": ["y", "z"]}
    flags = model_of(EVERY_KIND).model_validate(given)
    assert " ".join(to_arguments(flags)) == (
        '--workers 4 --lr 1.0 --r-bn 0.05 --name a "b" --no-flag --several y z --wb --mode a --size 64 '
        "--lambda 0.5 --copy x"
    )


@pytest.mark.parametrize("wrong", [{"size": 33}, {"workers": "4"}, {"unknown": 1}, {"mode": "c"}])
def test_the_model_refuses_what_the_script_would(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        model_of(EVERY_KIND).model_validate(wrong)


def test_a_script_without_flags_gives_an_empty_model() -> None:
    assert model_of("import sys\nprint(sys.argv)\n").model_fields == {}


def test_flags_of_a_script_that_goes_class_by_class_are_told_by_name() -> None:
    names = ("arch_checkpoint", "class-start", "class-end", "verifier-arch", "lr")
    flags = [Flag(name, "str", None) for name in names]
    roles = find_roles(flags)
    assert roles == {"TEACHER_FLAG": "arch_checkpoint"}
    assert reserved(flags, roles) == {
        "arch_checkpoint": "RESERVED_TEACHER",
        "class-start": "RESERVED_PASSES",
        "class-end": "RESERVED_PASSES",
        "verifier-arch": "RESERVED_VERIFIER",
    }


@pytest.mark.parametrize(
    ("script", "flags", "flag"),
    [
        ("", ("lr", "ckpt-path"), "ckpt-path"),
        ("net.load_state_dict(torch.load(args.expert_file)['net'])", ("lr", "expert-file"), "expert-file"),
        ("torch.load(args.verifier_checkpoint)", ("lr", "verifier-checkpoint"), None),
        ("torch.load(os.path.join(args.folder, 'net.pt'))", ("lr", "folder"), None),
    ],
)
def test_the_teachers_flag_is_told_by_its_name_or_by_what_loads_it(
    script: str, flags: tuple[str, ...], flag: str | None
) -> None:
    found = find_roles([Flag(name, "str", None) for name in flags], [ast.parse(script)])
    assert found.get("TEACHER_FLAG") == flag


@pytest.mark.parametrize(
    ("script", "asks"),
    [
        ("models.__dict__[args.arch](pretrained=True)", True),
        ("models.get_model('resnet18', weights='DEFAULT')", True),
        ("models.resnet18(weights=models.ResNet18_Weights.DEFAULT)", True),
        ("models.resnet18(pretrained=False, weights=None)", False),
    ],
)
def test_a_request_for_trained_weights_is_seen(script: str, asks: bool) -> None:
    assert asks_for_weights(ast.parse(script)) is asks


@pytest.mark.parametrize(
    ("roles", "from_hub", "constant", "shims"),
    [
        ({"TEACHER_FLAG": "ckpt"}, False, "TEACHER_FLAG", ""),
        ({"TEACHER_FLAG": "ckpt"}, True, "TEACHER_FLAG", "hub_weights"),
        ({}, True, None, "hub_weights"),
        ({}, False, "TEACHER_FILE", "files"),
    ],
)
def test_a_flag_for_the_teacher_is_asked_for_only_where_there_may_be_one(
    roles: dict[str, str], from_hub: bool, constant: str | None, shims: str
) -> None:
    kind = ScriptKind(passes="many", images="files", loss="named", checkpoint="bare")
    parts = adapter_parts(kind, roles, None, from_hub=from_hub)
    assert re.findall(r"TEACHER_\w+(?=:)", parts["constants"]) == ([constant] if constant else [])
    assert re.findall(r'\{"(\w+)"', parts["shims"])[:1] == ([shims] if shims else [])
    assert ("hub.pt" in parts["hub_network"]) == from_hub


@pytest.mark.parametrize(
    ("flag", "field"),
    [("lr", "lr"), ("arch-name", "arch_name"), ("lambda", "flag_lambda"), ("copy", "flag_copy"), ("2x", "flag_2x")],
)
def test_a_field_has_a_name_that_a_model_takes(flag: str, field: str) -> None:
    assert field_name(flag) == field


@pytest.mark.parametrize(
    ("script", "line"),
    [
        ("", 0),
        ("x = 1\n", 0),
        ("# a comment\n\nx = 1\n", 2),
        ('"""A docstring\nof two lines."""\nx = 1\n', 2),
        ("@a\ndef f(): ...\n", 0),
        ("import a\nfrom b import (\n    c,\n)\n\nx = 1\nimport d\n", 4),
        ("import sys\nsys.path.append('x')\nimport a\n", 1),
        ("from __future__ import annotations\n\nimport a\n", 3),
    ],
)
def test_the_import_of_bridge_stands_after_the_first_imports(script: str, line: int) -> None:
    assert end_of_imports(ast.parse(script)) == line


def test_packages_are_those_that_neither_python_nor_the_repository_has(tmp_path: Path) -> None:
    (tmp_path / "src" / "models").mkdir(parents=True)
    (tmp_path / "root_module.py").write_text("")
    script = "import os, einops.layers\nimport torch, models, root_module\nfrom kornia import x\nfrom . import y\n"
    (tmp_path / "src" / "loop.py").write_text(script)
    assert read_facts(tmp_path, "src/loop.py").packages == ("einops", "kornia")


def test_modules_of_the_repository_are_told_from_packages_by_looking(tmp_path: Path) -> None:
    sources = {
        "recover/loop.py": "import sys, ot, tools\nsys.path.append('..')\nfrom models.factory import make",
        "recover/tools.py": "",
        "models/factory.py": "import timm\nfrom .resnet import net\nfrom models import names",
        "models/resnet.py": "import einops",
        "models/names.py": "import common",
        "models/other.py": "import unseen",
        "common.py": "",
    }
    for name, text in sources.items():
        write_atomically(tmp_path / name, text)
    facts = read_facts(tmp_path, "recover/loop.py")
    assert facts.packages == ("einops", "ot", "timm")
    assert facts.paths == ("recover", "common.py", "models")
    assert read_facts(tmp_path, "common.py").paths == (".",)


def test_a_parser_in_another_module_counts_where_the_script_has_none(tmp_path: Path) -> None:
    write_atomically(tmp_path / "loop.py", "from misc.arguments import args\nimport tool")
    write_atomically(tmp_path / "misc" / "arguments.py", "parser.add_argument('--lr', type=float)")
    write_atomically(tmp_path / "tool.py", "parser.add_argument('--other')")
    facts = read_facts(tmp_path, "loop.py")
    assert (facts.parser, facts.flags) == ("misc/arguments.py", [Flag("lr", "float", None)])
    assert read_facts(tmp_path, "tool.py").parser == "tool.py"


def test_packages_of_files_beside_the_script_count_too(tmp_path: Path) -> None:
    sources = {
        "loop": "import first",
        "first": "import second, cv2",
        "second": "import first, pandas",
        "other": "import x",
    }
    for name, text in sources.items():
        (tmp_path / f"{name}.py").write_text(text)
    assert read_facts(tmp_path, "loop.py").packages == ("cv2", "pandas")


def test_a_script_of_another_python_is_refused_with_its_line() -> None:
    with pytest.raises(DirePlugError, match=r"^src/old\.py:2: not a Python script that this Python can read: "):
        parse(b'x = 1\nprint "x"\n', where="src/old.py")


def test_a_script_of_sloppy_text_is_read_without_a_warning() -> None:
    assert parse(b'x = "\\d"\n', where="src/x.py").body
