"""`dire_plug.api`: all that packages of methods and regularizers import of dire-plug, and light where it must be."""

import ast
import re
import subprocess
import sys
from importlib import import_module
from typing import Any

import pytest
import torch
from support.paths import ROOT
from support.third_party_plugin import TERM, read_files

from dire_plug.api.term import RealEmbeddings, arrange, prepare_real
from dire_plug.scaffold.package import SUFFIX, TEMPLATES

SURFACE = {"dire_plug.api.dataset", "dire_plug.api.method", "dire_plug.api.term"}
PAGES = ("your-own.md", "datasets.md", "reference/hooks.md")
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
PLACEHOLDER = re.compile(r"\$\{?\w+\}?")


def template_sources() -> dict[str, str]:
    """Return the templates of Python modules, with names that parse in the place of their placeholders."""
    files = TEMPLATES.rglob(f"*.py{SUFFIX}")
    return {str(file.relative_to(TEMPLATES)): drop_placeholders(file.read_text()) for file in files}


def drop_placeholders(text: str) -> str:
    """Return a template that parses: what values fill from a line's start is left out, others are names."""
    text = re.sub(r"^[ \t]*(\$\{?\w+\}?)+", "", text, flags=re.MULTILINE)
    return PLACEHOLDER.sub("x", text)


def page_sources() -> dict[str, str]:
    """Return the Python blocks of the pages that a newcomer follows."""
    pages = {name: (ROOT / "docs" / name).read_text() for name in PAGES}
    return {
        f"{name} {number}": block for name, text in pages.items() for number, block in enumerate(BLOCK.findall(text))
    }


def package_sources() -> dict[str, str]:
    """Return the modules of the third-party package of these tests."""
    shown = {name: text for name, text in read_files().items() if name.endswith(".py")}
    return shown | {"toy_net_plugin/term.py": TERM}


SOURCES = template_sources() | page_sources() | package_sources()


def imported(source: str) -> set[str]:
    """Return the modules of dire-plug that a source imports."""
    nodes = list(ast.walk(ast.parse(source)))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    return {name for name in names if name.partition(".")[0] == "dire_plug"}


@pytest.mark.parametrize("name", SOURCES)
def test_what_others_write_imports_the_api_and_nothing_else_of_ours(name: str) -> None:
    assert imported(SOURCES[name]) - SURFACE == set()


def test_templates_pages_and_the_package_were_found() -> None:
    users = [name for name, source in SOURCES.items() if imported(source)]
    assert {name.split("/")[0].split(" ")[0] for name in users} >= {
        "method",
        "regularizer",
        "toy_net_plugin",
        PAGES[0],
    }


@pytest.mark.parametrize("module", sorted(SURFACE))
def test_the_names_of_a_module_are_listed_and_there(module: str) -> None:
    loaded = import_module(module)
    assert [name for name in loaded.__all__ if not hasattr(loaded, name)] == []
    assert {name for name in vars(loaded) if not name.startswith("_")} >= set(loaded.__all__)
    own = {name for name, value in vars(loaded).items() if getattr(value, "__module__", None) == module}
    assert {name for name in own if not name.startswith("_")} - {"SettingsT"} <= set(loaded.__all__)


def test_methods_are_written_without_torch_and_the_package_imports_nothing() -> None:
    code = (
        "import sys, dire_plug.api; assert not [name for name in sys.modules if name.startswith('dire_plug.api.')]; "
        "import dire_plug.api.method; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_term_that_the_page_shows_pulls_embeddings_to_the_real_ones() -> None:
    (source,) = [source for name, source in SOURCES.items() if name.startswith("your-own.md") and "ClassTerm" in source]
    space: dict[str, Any] = {"__name__": "page"}
    exec(source, space)
    term = space["Pull"](space["PullSettings"]())
    real = prepare_real(RealEmbeddings(torch.eye(4), torch.tensor([0, 0, 1, 1])))
    leaf, labels = torch.full((3, 4), 5.0, requires_grad=True), torch.tensor([1, 0, 1])
    value = term.value(arrange(leaf, labels, real))
    (gradient,) = torch.autograd.grad(value, leaf)
    assert term.value(arrange(leaf - 0.1 * gradient, labels, real)) < value
