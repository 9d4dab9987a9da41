"""The module map of the design: a module imports from rows below its own only."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from dire_plug.cli import COMMANDS

ROOT = Path(__file__).parents[1] / "dire_plug"
ROWS = (
    ("__main__",),
    ("cli",),
    ("python",),
    ("commands",),
    ("paper",),
    ("results",),
    ("sets",),
    ("executors",),
    ("pipeline",),
    ("scaffold",),
    ("stages",),
    ("upstream", "native"),
    ("bridge",),
    ("synthesis",),
    ("training",),
    ("methods", "regularizers", "loggers", "store"),
    ("api",),
    ("data", "models", "metrics"),
    ("plugins",),
    ("code_identity",),
    ("acceleration",),
    ("recipe",),
    ("hookspecs", "image_files"),
    ("types", "table_files"),
    ("ui", "tables", "measures", "errors", "files", "home", "seeding", "devices"),
)
ROW = {name: number for number, row in enumerate(ROWS) for name in row}
ALLOWED = {("files", "errors"), ("home", "files"), ("ui", "errors"), ("tables", "errors")}
"""In the bottom row `files` may raise errors, `home` expand paths, and what prints make text printable.

DESIGN.md lets `bridge` import `synthesis`.
"""


def _entry(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def _imports(path: Path) -> set[str]:
    """Return the entries that a module imports, at its top or inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = (
                [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "dire_plug" else [node.module]
            )
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        found |= {name.split(".")[1] for name in names if name.startswith("dire_plug.") and name.count(".")}
    return found & ROW.keys()


MODULES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_from_rows_below_its_own_only(path: Path) -> None:
    entry = _entry(path)
    assert entry in ROW, f"{entry} has no place in the module map"
    for other in _imports(path) - {entry}:
        assert ROW[other] > ROW[entry] or (entry, other) in ALLOWED, f"{entry} imports {other}"


def _module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")


def test_no_module_imports_itself_by_way_of_others() -> None:
    names = {_module_name(path): path for path in MODULES}
    imports: dict[str, set[str]] = {}
    for name, path in names.items():
        imports[name] = set()
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ImportFrom) and node.module:
                of_package = {f"{node.module}.{alias.name}" for alias in node.names} & names.keys()
                imports[name] |= of_package or {node.module} & names.keys()
    while ends := {name for name, others in imports.items() if not others & imports.keys()}:
        imports = {name: others for name, others in imports.items() if name not in ends}
    assert not imports, f"a cycle among {sorted(imports)}"


def test_nobody_imports_an_adapter_or_a_regularizer_from_above() -> None:
    above = [path for path in MODULES if ROW[_entry(path)] < ROW["methods"]]
    assert not [path for path in above if {"methods", "regularizers"} & _imports(path)]


def test_adapters_and_their_base_import_no_torch_at_module_level() -> None:
    of_methods = ("method", "plans", "checklist", "patch_file", "__init__")
    for path in [*(ROOT / "methods").glob("*.py"), *(ROOT / "api" / f"{name}.py" for name in of_methods)]:
        for node in ast.parse(path.read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            assert not [name for name in (*names, module) if name.split(".")[0] in {"torch", "torchvision"}], path


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_imports_nothing_heavy(command: str) -> None:
    program = (
        "import sys\nfrom dire_plug.cli import main\n"
        f"try:\n    main({[word for word in (command, '--help') if word]!r})\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('torch', 'matplotlib', 'sklearn', 'pandas') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines()[-1] == "[]"


TESTS = Path(__file__).parent
TEST_FILES = sorted(TESTS.rglob("*.py"))


@pytest.mark.parametrize("path", TEST_FILES, ids=lambda path: str(path.relative_to(TESTS)))
def test_no_test_module_is_imported_and_names_are_short(path: Path) -> None:
    tree = ast.parse(path.read_text())
    froms = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    parts = [name.split(".") for name in (*froms, *names)]
    assert [one for one in parts if one[-1].startswith("test_") or "conftest" in one] == []
    tests = [
        node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    assert [name for name in tests if len(name) > 70] == []
