"""Write docs/reference/scripts.md: the scripts, flags and recipes of every method, as its adapter has them.

python docs/site/scripts.py
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

from dire_plug.plugins import load_adapter
from dire_plug.recipe import recipe_names
from dire_plug.types import Adapter, Script

PAGE = Path(__file__).parents[1] / "reference" / "scripts.md"
HEAD = """# Scripts, flags and recipes

Made by `python docs/site/scripts.py` from the adapters. Flags stand under `recover.flags` in a
recipe, in upstream's spelling without dashes; what a recipe omits keeps the default. dire-plug sets
the flags of each last table itself, so a recipe can't.
[The methods' pages](../methods/README.md) say what they do.
"""


def scripts(adapter: Adapter) -> Iterator[str]:
    """Yield the table of a method's scripts."""
    yield "| `recover.script` | upstream's file | classes | pixels | stem | mean | standard deviation |"
    yield "|---|---|---|---|---|---|---|"
    for name, script in adapter.scripts.items():
        yield f"| `{name}` | `{script.path}` | {script.classes} | {script.size} | {script.stem} | {numbers(script)} |"


def numbers(script: Script) -> str:
    """Return two cells: what a script's normalization takes off each channel, and what it divides by."""
    return " | ".join(", ".join(f"{number:.4g}" for number in triple) for triple in (script.mean, script.std))


def flags(adapter: Adapter) -> Iterator[str]:
    """Yield the table of flags; a script that doesn't have one has an empty cell."""
    defaults = {name: adapter.flags_model(name)().model_dump(by_alias=True) for name in adapter.scripts}
    names = list(dict.fromkeys(flag for found in defaults.values() for flag in found))
    yield f"| flag | {' | '.join(f'`{script}`' for script in defaults)} |"
    yield "|---" * (len(defaults) + 1) + "|"
    for flag in names:
        cells = (spell(found[flag]) if flag in found else "" for found in defaults.values())
        yield f"| `{flag}` | {' | '.join(cells)} |"


def spell(value: object) -> str:
    """Return a default as a recipe has it."""
    if value is None or isinstance(value, bool):
        return "none" if value is None else str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def reserved(adapter: Adapter) -> Iterator[str]:
    """Yield the table of the flags that a recipe can't set, by the reason."""
    yield "| set by dire-plug | because |"
    yield "|---|---|"
    for reason in dict.fromkeys(adapter.reserved_flags.values()):
        names = ", ".join(f"`{flag}`" for flag, why in adapter.reserved_flags.items() if why == reason)
        yield f"| {names} | {reason} |"


def page() -> str:
    """Return the page."""
    parts = [HEAD]
    for point in sorted(entry_points(group="dire_plug.methods"), key=lambda point: point.name):
        if not point.value.startswith("dire_plug."):
            continue
        adapter = load_adapter(point.name)
        address = adapter.upstream.repository
        upstream = f"[{address.split('//')[1]}]({address})\nat `{adapter.upstream.commit}`"
        recipes = ", ".join(f"`{name}`" for name in recipe_names(adapter.recipes()))
        parts.append(f"## {adapter.title}\n\nUpstream: {upstream}.\nRecipes: {recipes}.\n")
        parts += ["\n".join(table(adapter)) + "\n" for table in (scripts, flags, reserved)]
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page())
