"""Recipes and settings of every kind of wrong end in a message, never in an unexpected error."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from support.fuzzing import TAGS, change, check_foreseen, damage, places, texts, tries, values

from dire_plug.home import resource

FILES = sorted(path for path in resource("recipes").glob("*/*.yaml"))
TREES: dict[Path, Any] = {path: yaml.safe_load(path.read_text()) for path in FILES}
KEYS = sorted({".".join(map(str, place)) for tree in TREES.values() for place in places(tree) if len(place) < 6})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for recipes."""
    return tmp_path_factory.mktemp("fuzz")


@pytest.fixture(autouse=True, scope="module")
def no_home(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Let nothing of a user's own take part."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIRE_PLUG_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@tries(5000)
@given(data=st.data())
def test_a_changed_recipe_is_planned_or_refused(folder: Path, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(FILES))
    tree = yaml.safe_load(path.read_text())
    for _ in range(data.draw(st.integers(1, 3))):
        change(data.draw, tree)
    changed = folder / "changed.yaml"
    changed.write_text(yaml.safe_dump(tree, sort_keys=False), errors="surrogatepass")
    arm = data.draw(st.sampled_from(["baseline", "control", "dire"]))
    check_foreseen("run", path.parent.name, "--recipe", str(changed), "--arm", arm, "--dry-run")


@tries(1000)
@given(data=st.data())
def test_a_damaged_recipe_file_is_planned_or_refused(folder: Path, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(FILES))
    content = path.read_bytes()
    if data.draw(st.booleans()):
        lines = content.decode().splitlines()
        place = data.draw(st.integers(0, len(lines) - 1))
        lines[place] = f"{lines[place].split(':')[0]}: {data.draw(st.sampled_from(TAGS))}"
        content = "\n".join(lines).encode()
    else:
        content = damage(data.draw, content)
    damaged = folder / "damaged.yaml"
    damaged.write_bytes(content)
    check_foreseen("run", path.parent.name, "--recipe", str(damaged), "--dry-run")


@tries(4000)
@given(data=st.data())
def test_any_setting_is_planned_or_refused(data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(FILES))
    options: list[str] = []
    for _ in range(data.draw(st.integers(1, 2))):
        key = data.draw(st.one_of(st.sampled_from(KEYS), texts))
        value = data.draw(st.one_of(texts, values.map(str), st.sampled_from(TAGS)))
        options += [f"--set={key}={value}"]
    options += data.draw(st.sampled_from([[], [], [], ["--ipc", "1000000"], ["--dire"], ["--preset", "released"]]))
    check_foreseen("run", path.parent.name, "--recipe", path.stem, "--dry-run", *options)
