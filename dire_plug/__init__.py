"""Run the published code of dataset-condensation methods with a regularizer in its loss.

In Python, with the command line's words: `dire_plug.run("sre2l", dire=True)`, `dire_plug.compare("sre2l")`,
`dire_plug.load_run(NAME)`, `dire_plug.load_comparison(NAME)`, `dire_plug.measure(PATH)`, `dire_plug.evaluate(PATH)`.
"""

from typing import TYPE_CHECKING, Any

from dire_plug.errors import DirePlugError

if TYPE_CHECKING:
    from dire_plug.python import (
        ComparisonResult,
        RunResult,
        SetResult,
        compare,
        evaluate,
        load_comparison,
        load_run,
        measure,
        run,
    )

__version__ = "0.1.0"
__all__ = [
    "ComparisonResult",
    "DirePlugError",
    "RunResult",
    "SetResult",
    "compare",
    "evaluate",
    "load_comparison",
    "load_run",
    "measure",
    "run",
]


def __getattr__(name: str) -> Any:
    """Import what Python users call at its first use: it needs torch, which takes seconds."""
    if name not in __all__:
        raise AttributeError(f"module 'dire_plug' has no attribute '{name}'")
    from dire_plug import python

    return getattr(python, name)


def __dir__() -> list[str]:
    """Name what can be imported, for completion in notebooks."""
    return sorted([*globals(), *__all__])
