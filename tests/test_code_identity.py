"""What of our code decides an artefact: its meaning. What of a third party's: its bytes."""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dire_plug import code_identity, plugins
from dire_plug.code_identity import meaning
from dire_plug.home import PACKAGE

MODULE = '''"""A module."""
from dataclasses import dataclass
from functools import cached_property

from dire_plug.api.term import hookimpl

RATE = 0.1
"""How fast."""


@dataclass
class Settings:
    """Settings."""

    weight: float = 1.0
    steps: int = 3


class Term:
    """A term."""

    DATA = ("constants.yaml",)

    @hookimpl
    def loss_term(self, batch: int, scale: float = 2.0) -> float:
        """Return the term."""
        total: float = batch * scale  # the sum
        del (total)
        return f"{batch!r:>4}" 'and' f"{scale}"

    @cached_property
    def size(self) -> int:
        return len(u"text")


@dataclass
def decorated(x: int) -> int:
    pass
'''
"""A module whose meaning is asked for: it isn't run."""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# the sum", "# another comment"),
        ('"""Return the term."""', '"""Return\n\n        something else."""'),
        ('"""A module."""\n', ""),
        ('"""How fast."""\n', ""),
        ('    """Settings."""\n\n', ""),
        ("batch: int, scale", "batch: str, scale"),
        ("-> float:", "-> 'object':"),
        ("total: float =", "total ="),
        ("(self) -> int", "(self)"),
        ("del (total)", "del total"),
        ('u"text"', "'text'"),
        ('f"{batch!r:>4}" \'and\' f"{scale}"', 'f"{batch!r:>4}and{scale}"'),
        ("scale: float = 2.0)", "scale: float\n        = 2.0,\n    )"),
    ],
)
def test_what_changes_no_meaning(old: str, new: str) -> None:
    assert MODULE.count(old) == 1
    assert meaning(MODULE.replace(old, new)) == meaning(MODULE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("RATE = 0.1", "RATE = 0.2"),
        ("RATE = 0.1", "RATE = 1"),
        ("batch * scale", "batch + scale"),
        ("scale: float = 2.0", "scale: float = 2.5"),
        ("    weight: float = 1.0\n    steps: int = 3\n", "    steps: int = 3\n    weight: float = 1.0\n"),
        ("weight: float = 1.0", "weight: Annotated[float, Gt(0)] = 1.0"),
        ("decorated(x: int)", "decorated(x: str)"),
        ("@hookimpl\n", "@hookimpl(tryfirst=True)\n"),
        ('u"text"', 'b"text"'),
        ("{batch!r:>4}", "{batch!s:>4}"),
        ("import cached_property", "import cached_property as cached"),
    ],
)
def test_what_changes_a_meaning(old: str, new: str) -> None:
    assert MODULE.count(old) == 1
    assert meaning(MODULE.replace(old, new)) != meaning(MODULE)


@pytest.mark.parametrize(
    ("looks", "old", "new"),
    [
        ("HELP = Term.__doc__", '"""A term."""', '"""Another."""'),
        ("HELP = getattr(Term, '__doc__')", '"""A term."""', '"""Another."""'),
        ("TYPES = get_type_hints(Term.loss_term)", "batch: int, scale", "batch: str, scale"),
    ],
)
def test_a_module_that_looks_at_docstrings_or_annotations_means_them(looks: str, old: str, new: str) -> None:
    module = f"{MODULE}\n{looks}\n"
    assert meaning(module.replace(old, new)) != meaning(module)


def test_what_is_no_python_is_its_own_meaning() -> None:
    assert meaning("def (:  # one") != meaning("def (:  # other")


def test_layout_by_ruff_changes_no_meaning() -> None:
    command = [sys.executable, "-m", "ruff", "format", "--line-length", "60", "--config", "format.quote-style='single'"]
    for path in sorted((PACKAGE / "regularizers").glob("*.py")):
        text = path.read_text()
        other = subprocess.run([*command, "-"], input=text, capture_output=True, text=True, check=True).stdout
        assert other != text
        assert meaning(other) == meaning(text), path.name


DIGEST = "d3679c0cc19c3d50"
"""The sha256 of the meaning of MODULE, in every supported Python."""


def test_the_meaning_is_the_same_in_every_python() -> None:
    assert hashlib.sha256(meaning(MODULE).encode()).hexdigest()[:16] == DIGEST


@pytest.mark.parametrize("python", ["python3.12", "python3.13"])
def test_every_module_of_ours_means_the_same_to_another_python(python: str) -> None:
    """An interpreter that has neither our package nor its dependencies reads code_identity.py with stand-ins."""
    program = (
        "import sys, types, hashlib, pathlib\n"
        "sys.modules['yaml'] = types.ModuleType('yaml')\n"
        "home = sys.modules['dire_plug.home'] = types.ModuleType('dire_plug.home'); home.PACKAGE = None\n"
        f"space = {{'__name__': 'code_identity'}}; exec(open({str(code_identity.__file__)!r}).read(), space)\n"
        f"for path in sorted(pathlib.Path({str(PACKAGE)!r}).rglob('*.py')):\n"
        "    print(hashlib.sha256(space['meaning'](path.read_text(encoding='utf-8')).encode()).hexdigest())\n"
    )
    try:
        done = subprocess.run([python, "-c", program], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip(f"not shown here: no {python}; the digest above is compared in every Python of the workflow")
    if done.returncode == 127:
        pytest.skip(
            f"not shown here: {python} is a name without an interpreter; the workflow compares the digest above"
        )
    assert done.returncode == 0, done.stderr
    paths = sorted(PACKAGE.rglob("*.py"))
    assert done.stdout.split() == [hashlib.sha256(meaning(path.read_text()).encode()).hexdigest() for path in paths]


# Of built-in plugins.


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of our sources whose files can be changed; what is imported stays."""
    copy = tmp_path / PACKAGE.name
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__", "_patches", "_recipes"))
    monkeypatch.setattr(code_identity, "PACKAGE", copy)
    return copy


def codes() -> dict[str, str]:
    """Return the digests of all methods and regularizers."""
    kinds: tuple[plugins.Kind, ...] = ("methods", "regularizers")
    return {name: plugins.code_of(kind, name) for kind in kinds for name in plugins.known(kind)}


def changed_by(path: Path, change: Callable[[str], str]) -> set[str]:
    """Change a file, and return the names of the plugins whose digests changed with it."""
    before, text = codes(), path.read_text()
    after = change(text)
    assert after != text
    path.write_text(after)
    return {name for name, code in codes().items() if code != before[name]}


def test_a_comment_and_a_docstring_concern_no_plugin(package: Path) -> None:
    assert changed_by(package / "methods" / "mtt.py", lambda text: f"{text}# a comment\n") == set()
    assert changed_by(package / "methods" / "dm.py", lambda text: text.replace('"""', '"""Now: ', 1)) == set()


def test_a_constant_concerns_just_the_plugins_that_import_it(package: Path) -> None:
    more = "\nANOTHER = 1\n"
    assert changed_by(package / "methods" / "mtt.py", lambda text: text + more) == {"mtt"}
    assert changed_by(package / "methods" / "matching_family.py", lambda text: text + more) == {"mtt", "dm"}
    assert changed_by(package / "regularizers" / "energy.py", lambda text: text + more) == {"energy"}


def test_a_value_in_a_data_file_counts_and_its_layout_does_not(package: Path) -> None:
    module, data = package / "methods" / "dm.py", package / "methods" / "constants.yaml"
    data.write_text("rate: 1.0\nsteps: [1, 2]\n")
    assert changed_by(module, lambda text: f'{text}\n\nclass More:\n    DATA = ("constants.yaml",)\n') == {"dm"}
    assert changed_by(data, lambda text: "# a comment\nsteps:\n- 1\n- 2\nrate: 1.0\n") == set()
    assert changed_by(data, lambda text: text.replace("1.0", "1.5")) == {"dm"}
