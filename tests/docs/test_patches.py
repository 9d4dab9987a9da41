"""patches/README.md has a section for each patch, with every call that it inserts and where."""

import re
from collections import defaultdict
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "patches"
TEXT = (FOLDER / "README.md").read_text()
PATCHES = sorted(FOLDER.glob("*/*.patch"))
Places = dict[str, list[tuple[int, list[str]]]]


def read_places(patch: Path) -> Places:
    """Return file → (the line after which it inserts, the inserted lines), of a patch."""
    found: Places = defaultdict(list)
    for name, body in re.findall(r"^diff --git a/(.+?) b/.*?\n(.*?)(?=^diff --git|\Z)", patch.read_text(), re.M | re.S):
        for number, lines in re.findall(r"^@@ -(\d+),0 \+[\d,]+ @@\n((?:\+.*\n?)+)", body, re.M):
            found[name].append((int(number), [line[1:].strip() for line in lines.splitlines()]))
    return found


def published_lines(number: int, repairs: list[tuple[int, list[str]]]) -> set[int]:
    """Return the published lines that a line of a repaired file may be: the line itself, or that before a repair."""
    found = set()
    for line in range(number + 1):
        above = sum(len(lines) for place, lines in repairs if place < line)
        at = sum(len(lines) for place, lines in repairs if place == line)
        if line + above <= number <= line + above + at:
            found.add(line)
    return found


def undocumented(patch: Path, section: str) -> list[str]:
    """Return the places and the calls of a patch that its section doesn't name."""
    repair = patch.parent / "repair.patch"
    repairs = read_places(repair) if repair.is_file() and repair != patch else {}
    numbers = {int(number) for number in re.findall(r"\b\d+\b", section)}
    missing = []
    for name, places in read_places(patch).items():
        for number, lines in places:
            if not published_lines(number, repairs.get(name, [])) & numbers:
                missing.append(f"{name}:{number}")
            calls = {match[0] if (match := re.search(r"bridge\.\w+\(", line)) else line for line in lines}
            missing += sorted(call for call in calls if call not in section)
    return missing


@pytest.mark.parametrize("patch", PATCHES, ids=lambda patch: f"{patch.parent.name}/{patch.name}")
def test_a_section_names_every_inserted_call_and_its_line(patch: Path) -> None:
    section = TEXT.split(f"\n## {patch.parent.name}/{patch.name}\n")[1].split("\n## ")[0]
    assert undocumented(patch, section) == []


def test_a_call_and_a_line_left_out_are_found() -> None:
    patch = FOLDER / "sre2l" / "bridge.patch"
    section = TEXT.split("\n## sre2l/bridge.patch\n")[1].split("\n## ")[0]
    found = undocumented(patch, section.replace("bridge.start(", "(").replace("| 101 |", "| |"))
    assert [name for name in found if name.startswith("bridge")] == ["bridge.start("] * 3
    assert [name.rpartition(":")[2] for name in found if not name.startswith("bridge")] == ["101"]
