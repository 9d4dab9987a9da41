"""Every hook has a docstring and a section in the docs, and the docs name no hook that isn't there."""

import inspect
import re

from support.paths import ROOT

from dire_plug import hookspecs

DOCS = ROOT / "docs" / "reference" / "hooks.md"


def hooks() -> dict[str, object]:
    return {name: found for name, found in vars(hookspecs).items() if hasattr(found, f"{hookspecs.PROJECT}_spec")}


def test_every_hook_has_a_docstring() -> None:
    assert hooks()
    assert [name for name, hook in hooks().items() if not inspect.getdoc(hook)] == []


def test_the_docs_have_a_section_for_each_hook_with_its_arguments() -> None:
    sections = dict(re.findall(r"^## (\w+)\(([^)]*)\) — (?:asked|summed|told)$", DOCS.read_text(), re.MULTILINE))
    described = {name: ", ".join(inspect.signature(hook).parameters) for name, hook in hooks().items()}  # type: ignore[arg-type]
    assert sections == described
