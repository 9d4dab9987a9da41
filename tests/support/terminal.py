"""Terminal output as text."""

import io

from rich.console import Console, RenderableType


def as_text(content: RenderableType) -> str:
    console = Console(file=io.StringIO(), width=140, color_system=None)
    console.print(content)
    assert isinstance(console.file, io.StringIO)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())
