"""The site of docs/: its length, its navigation, the page that a program writes, a strict build that reads offline."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.paths import ROOT

DOCS = ROOT / "docs"
PAGES = {page.relative_to(DOCS).as_posix(): page.read_text() for page in sorted(DOCS.rglob("*.md"))}
MOST_WORDS = 20_000
"""Of all pages but those of docs/reference, which one looks things up in."""


def count_words(text: str) -> int:
    """Return how many words a page has: what holds a letter, outside of blocks of code."""
    text = re.sub(r"^( *)```.*?^\1```$", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^    .*$", "", text, flags=re.MULTILINE)
    return sum(re.search(r"[^\W\d_]", word) is not None for word in text.split())


def load(name: str) -> Any:
    """Return a module of docs/site, which is no package."""
    spec = importlib.util.spec_from_file_location(name, DOCS / "site" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_words_are_counted_outside_of_code_and_numbers() -> None:
    assert (
        count_words("Two words – 1.5 ± .2 | `--flag` |\n\n    code block\n\n```console\n$ more code\n```\nend\n") == 4
    )


def test_the_pages_but_the_reference_have_20_000_words_at_most() -> None:
    words = {name: count_words(text) for name, text in PAGES.items() if not name.startswith("reference/")}
    assert len(words) > 20
    assert sum(words.values()) <= MOST_WORDS, sorted(words.items(), key=lambda item: -item[1])


def test_the_navigation_names_every_page_once() -> None:
    nav = (ROOT / "mkdocs.yml").read_text().split("\nnav:\n")[1]
    assert sorted(re.findall(r"[\w./-]+\.md", nav)) == sorted(PAGES)


def test_the_list_of_pages_links_every_page_but_the_methods() -> None:
    linked = set(re.findall(r"\]\(([\w/-]+\.md)\)", PAGES["README.md"]))
    methods = {name for name in PAGES if name.startswith("methods/")} - {"methods/README.md"}
    assert sorted(set(PAGES) - linked - methods) == ["README.md"]


def test_the_page_of_scripts_is_what_the_adapters_have() -> None:
    scripts = load("scripts")
    assert scripts.page() == PAGES["reference/scripts.md"], "write it again: python docs/site/scripts.py"


def test_a_list_or_table_begins_after_an_empty_line_or_a_heading() -> None:
    """Without one, GitHub shows a list, and the site a paragraph."""
    found = []
    for name, text in PAGES.items():
        text = re.sub(r"^( *)```.*?^\1```$", "", text, flags=re.DOTALL | re.MULTILINE)
        for block in re.split(r"\n\s*\n", text):
            lines = block.strip("\n").split("\n")
            if not re.match(r"[-*|#] ?|\d+\. |    |::: ", lines[0]):
                found += [f"{name}: {line}" for line in lines[1:] if re.match(r"[-*] |\d+\. |\|", line)]
    assert found == []


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_reads_offline(tmp_path: Path) -> None:
    for package in ("material", "mkdocstrings_handlers.python"):
        pytest.importorskip(package, reason="needs the extra docs: pip install -e '.[docs]'")
    command = (sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path))
    built = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False
    )
    assert (built.returncode, built.stdout + built.stderr) == (0, "")
    home = (tmp_path / "index.html").read_text()
    assert re.findall(r'<(?:script|img|link rel="stylesheet")[^>]*(?:src|href)="(?:https?:)?//[^"]*', home) == []
    assert (tmp_path / "search" / "search_index.js").is_file()
    # results/ lies outside of docs/, and its files are part of the site where a page links them
    assert 'href="repository/results/sre2l-quick-ladder.txt"' in (tmp_path / "results.html").read_text()
    assert (tmp_path / "repository" / "results" / "sre2l-quick.txt").is_file()
    # an API page shows what its docstrings say
    assert "diversity" in (tmp_path / "reference" / "api.html").read_text()
