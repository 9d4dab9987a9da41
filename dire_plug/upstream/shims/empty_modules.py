"""Put empty modules in the place of packages that a script imports and doesn't use here.

Needed by CV-DD `recover.py` 14 (pandas, which it never uses) and `utils_recover.py` 17 (OpenCV, which reads patches to
start from; the hook gives start images), and by FADRM `recover.py` 14 (pandas alike).
"""

import sys
from collections.abc import Sequence
from types import ModuleType


def install(*, device: str, names: Sequence[str]) -> None:
    """Let `import` of each name give a module without content, whether the package is installed or not."""
    for name in names:
        # an installed one may be imported already; its submodules would look for it
        for inner in [one for one in sys.modules if one.startswith(f"{name}.")]:
            del sys.modules[inner]
        sys.modules[name] = ModuleType(name)
