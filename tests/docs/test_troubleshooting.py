"""docs/troubleshooting.md: the messages that it lists are those of the code."""

import re

from support.paths import ROOT

TEXT = (ROOT / "docs" / "troubleshooting.md").read_text()
OF_OTHERS = {"command not found: dire-plug", "No space left on device"}
"""The shell's and the system's."""


def read_messages() -> str:
    """Return the package's source with each literal that goes on over lines as one, and … for what is filled in."""
    source = "\n".join(path.read_text() for path in sorted((ROOT / "dire_plug").rglob("*.py")))
    source = re.sub(r'"\s*\n\s*f?"', "", source)
    return re.sub(r"\{[^{}\n]*\}", "…", source)


def test_the_listed_messages_are_those_of_the_code() -> None:
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \|$", TEXT, re.MULTILINE)
    shown = [message for row in rows for message in re.findall(r"`([^`]+)`", row) if " " in message]
    source = read_messages()
    parts = {
        part.strip(" .:'")
        for message in shown
        if message not in OF_OTHERS
        for part in re.split(r"…|\b\d+\b|cifar-10|'my'|METHOD|CUDA out of memory", message)
    }
    parts = {part for part in parts if len(part) > 3}
    assert len(parts) > 15
    assert sorted(part for part in parts if part not in source) == []
