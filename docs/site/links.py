"""Add to the site what its pages link outside of docs/, so that one relative link serves the repository and the site.

mkdocs calls these functions (`hooks` in mkdocs.yml). A file of the repository that a page links, directly or through
another such page, becomes `repository/<path>` of the site: Markdown as a page out of the navigation, all else as it is.
A link to a folder leads to its README.md.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
OUTSIDE = "repository/"
SPREAD = re.compile(r"(?<=\S) (?=±)|(?<=±) (?=\d)|(?<=\d) (?=\[\S+–\S+\])")
"""The spaces within a number and its spread, at which a narrow table would break them."""
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^()\s#]+)")
CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.DOTALL | re.MULTILINE)


def find_source(site_path: str) -> str:
    """Return the path in the repository of a file of the site."""
    return site_path.removeprefix(OUTSIDE) if site_path.startswith(OUTSIDE) else f"docs/{site_path}"


def find_place(source: str) -> str:
    """Return the path in the site of a file of the repository."""
    return source.removeprefix("docs/") if source.startswith("docs/") else f"{OUTSIDE}{source}"


def resolve(link: str, source: str) -> str | None:
    """Return the file of the repository that a page's link leads to, or None where there is none."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link))
    if (ROOT / path).is_dir():
        path = posixpath.join(path, "README.md")
    return path if not path.startswith("..") and (ROOT / path).is_file() else None


def linked(text: str, source: str) -> set[str]:
    """Return the files of the repository that a page links."""
    links = LINK.findall(CODE.sub("", text))
    return {path for link in links if (path := resolve(link, source)) is not None}


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add every file outside of docs/ that a page links."""
    waiting = [find_source(file.src_uri) for file in files.documentation_pages()]
    seen = set(waiting)
    while waiting:
        source = waiting.pop()
        for path in linked((ROOT / source).read_text(), source) - seen:
            seen.add(path)
            if not path.startswith("docs/"):
                files.append(File.generated(config, find_place(path), abs_src_path=str(ROOT / path)))
            if path.endswith(".md"):
                waiting.append(path)
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn a page's links into those of the site, and keep numbers and their spread on one line."""
    source = find_source(page.file.src_uri)
    here = posixpath.dirname(page.file.src_uri)

    def place(match: re.Match[str]) -> str:
        path = resolve(match[1], source)
        return match[1] if path is None else posixpath.relpath(find_place(path), here or ".")

    parts = re.split(f"({CODE.pattern})", markdown, flags=CODE.flags)
    return "".join(
        part if number % 2 else SPREAD.sub("\u00a0", LINK.sub(place, part)) for number, part in enumerate(parts)
    )
