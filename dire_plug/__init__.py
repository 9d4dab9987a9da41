"""Run the published code of dataset-condensation methods with a regularizer in its loss.

In Python, with the command line's words: `dire_plug.run("sre2l", dire=True)`, `dire_plug.compare("sre2l")`,
`dire_plug.compare_methods("all")`, `dire_plug.tune("sre2l")`, `dire_plug.measure(PATH)`, `dire_plug.evaluate(PATH)`;
`dire_plug.load_run(NAME)`, `load_comparison`, `load_methods` and `load_study` return finished ones.
"""

from typing import TYPE_CHECKING, Any

from dire_plug.errors import DirePlugError

if TYPE_CHECKING:
    from dire_plug.python import (
        ComparisonResult,
        MethodsResult,
        RunResult,
        SetResult,
        StudyResult,
        compare,
        compare_methods,
        evaluate,
        load_comparison,
        load_methods,
        load_run,
        load_study,
        measure,
        run,
        tune,
    )

__version__ = "0.1.0"
__all__ = [
    "ComparisonResult",
    "DirePlugError",
    "MethodsResult",
    "RunResult",
    "SetResult",
    "StudyResult",
    "compare",
    "compare_methods",
    "evaluate",
    "load_comparison",
    "load_methods",
    "load_run",
    "load_study",
    "measure",
    "run",
    "tune",
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
