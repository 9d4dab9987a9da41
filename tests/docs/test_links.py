"""Every relative link and anchor of the docs resolves, and results/README.md lists every file beside it."""

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "patches" / "README.md",
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "examples").rglob("*.md"),
        *(ROOT / "results").rglob("*.md"),
    ]
)
LINK = re.compile(r"\]\(([^()\s]+)\)")


def drop_code(text: str) -> str:
    """Return a page's text without fenced blocks and inline code, where brackets are no links."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "", text)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    found: set[str] = set()
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        numbered = (f"{slug}-{number}" for number in range(1, 100))
        found.add(slug if slug not in found else next(name for name in numbered if name not in found))
    return found


def broken_links(page: Path) -> list[str]:
    """Return the links of a page to a file or an anchor that doesn't exist."""
    broken = []
    for link in LINK.findall(drop_code(page.read_text())):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = unquote(link).partition("#")
        target = page.parent / name if name else page
        is_known = target.exists() and (not anchor or (target.suffix == ".md" and anchor in anchors(target)))
        if not is_known:
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_resolves(page: Path) -> None:
    assert broken_links(page) == []


def test_pages_with_links_were_found() -> None:
    assert {"README.md", "docs/README.md", "results/README.md"} <= {str(page.relative_to(ROOT)) for page in PAGES}
    assert sum(len(LINK.findall(drop_code(page.read_text()))) for page in PAGES) > 100


def test_a_missing_file_and_a_missing_anchor_are_found(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# A title, *twice*\n## A title twice\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](other.md) [b](other.md#a-title-twice-1) [c](https://example.org/x#y) `[d](code.md)`\n"
        "[e](missing.md) [f](other.md#nowhere) [g](#nor-here) ![h](missing.png)\n"
    )
    assert broken_links(page) == ["missing.md", "other.md#nowhere", "#nor-here", "missing.png"]


def test_the_list_of_results_names_every_file() -> None:
    folder = ROOT / "results"
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {"README.md"}
    rows = re.findall(r"^\| \[([^]]+)\]\(([^)]+)\) \|", (folder / "README.md").read_text(), re.MULTILINE)
    assert [name for name, link in rows if name != link] == []
    assert sorted(name for name, _ in rows) == sorted(files)
