"""docs/recipes.md: the recipe that it outlines is the one that it names."""

import re
from typing import Any

import yaml
from support.paths import ROOT

TEXT = (ROOT / "docs" / "recipes.md").read_text()


def is_part(part: Any, whole: Any) -> bool:
    """Return whether each value of a mapping, however deep, is in another one."""
    if isinstance(part, dict):
        return all(name in whole and is_part(value, whole[name]) for name, value in part.items())
    return bool(part == whole)


def test_the_outline_is_part_of_the_recipe_that_it_names() -> None:
    (block,) = re.findall(r"^```yaml\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
    (name,) = re.findall(r"# (recipes/\S+\.yaml) in outline", block)
    outline = yaml.safe_load(block)
    assert len(outline) > 5
    assert is_part(outline, yaml.safe_load((ROOT / name).read_text()))
    assert not is_part({**outline, "ipc": 49}, yaml.safe_load((ROOT / name).read_text()))


def test_every_section_of_a_recipe_is_in_the_table() -> None:
    sections = (ROOT / "docs" / "reference" / "recipes.md").read_text()
    recipes = [yaml.safe_load(path.read_text()) for path in (ROOT / "recipes").glob("*/*.yaml")]
    assert len(recipes) > 20
    assert sorted(name for name in {key for recipe in recipes for key in recipe} if f"`{name}`" not in sections) == []
