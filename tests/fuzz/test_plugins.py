"""Patches of every kind of wrong, and plugins that answer anything, end in a message."""

import shutil
from contextlib import suppress
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.fuzzing import damage, scalars, tries
from support.synthesis_loop import make, run_pass
from support.toy_upstream import make_toy

from dire_plug.api.patch_file import read_patch
from dire_plug.errors import DirePlugError, PluginError
from dire_plug.home import resource
from dire_plug.hookspecs import hookimpl
from dire_plug.upstream.source.patching import apply_patch, check_rules

PATCHES = sorted(resource("patches").rglob("*.patch"))
LINES = (
    "+import os", "+labels = bridge.labels(labels)", "+if True: bridge.keep()", "+x = bridge.loss(1, images=2)",
    "-gone",
    " kept", "@@ -1 +1 @@", "@@ -1,0 +2 @@", "@@ -0,0 +1,99999999999999999999 @@", "--- a/x.py", "+++ b/../x.py",
    "+++ b/x.py", "# blob x", "\\ No newline at end of file", "diff --git a/x b/y",
    "+bridge.__class__()", "+\tbridge.keep()",
)  # fmt: skip


def changed(data: st.DataObject, content: bytes) -> bytes:
    """Return a patch with lines of its own moved, gone or doubled, lines of others in it, or its bytes damaged."""
    kind = data.draw(st.sampled_from(["bytes", "line", "line", "line", "move"]))
    if kind == "bytes":
        return damage(data.draw, content)
    lines = content.split(b"\n")
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(lines) - 1))
        if kind == "move":
            lines.insert(data.draw(st.integers(0, len(lines) - 1)), lines.pop(place))
        elif data.draw(st.booleans()):
            lines.insert(place, data.draw(st.sampled_from(LINES)).encode())
        else:
            lines[place] = damage(data.draw, lines[place])
    return b"\n".join(lines)


@tries(500)
@given(data=st.data())
def test_a_changed_patch_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.getbasetemp() / "changed.patch"
    path.write_bytes(changed(data, data.draw(st.sampled_from(PATCHES)).read_bytes()))
    with suppress(DirePlugError):
        check_rules(read_patch(path))


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A toy upstream and its patch."""
    return make_toy(tmp_path_factory.mktemp("toy"))


@tries(200)
@given(data=st.data())
def test_a_changed_patch_is_applied_whole_or_refused(toy: Any, tmp_path_factory: Any, data: st.DataObject) -> None:
    base = tmp_path_factory.getbasetemp()
    tree, path = base / "tree", base / "toy.patch"
    shutil.rmtree(tree, ignore_errors=True)
    shutil.copytree(toy.repository, tree)
    path.write_bytes(changed(data, (toy.patches / "bridge.patch").read_bytes()))
    try:
        apply_patch(tree, read_patch(path))
    except DirePlugError:
        return
    # what was accepted stands in the tree, line by line
    text = "\n".join(file.read_text() for file in tree.rglob("*.py"))
    assert all(line[1:] in text for line in path.read_text().splitlines() if line.startswith("+ "))


def answering(hook: str, answer: Any) -> object:
    """Return a plugin that answers one hook."""

    def give(self: object) -> Any:
        return answer

    give.__name__ = hook
    return type("Answering", (), {hook: hookimpl(give)})()


HOOKS = ("plan_labels", "plan_order", "initial_images", "image_index", "loss_term", "step_done", "slot_done")
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool, torch.complex64)
SHAPES = ((), (3,), (6,), (3, 3, 2, 2), (3, 1, 2, 2), (3, 3, 0, 0), (0,), (1, 3))
"""The loop that the answers go to has a network for 2×2 pixels."""


@st.composite
def answers(draw: Any) -> Any:
    """Return anything that a plugin may answer: tensors of all shapes and types, and what is no tensor."""
    if draw(st.integers(0, 3)) == 0:
        return draw(st.one_of(scalars, st.lists(scalars, max_size=3), st.just(Exception), st.just(object())))
    made = torch.ones(draw(st.sampled_from(SHAPES))).mul(draw(st.sampled_from([0.0, 1.0, -1.0, 1e38, float("nan")])))
    made = made.to(draw(st.sampled_from(DTYPES)))
    kind = draw(st.sampled_from(["plain"] * 4 + ["meta", "sparse", "gradient", "expanded"]))
    if kind == "gradient" and made.is_floating_point():
        return made.requires_grad_()
    if kind == "expanded":
        return made.expand(3, *made.shape)
    return made.to("meta") if kind == "meta" else made.to_sparse() if kind == "sparse" and made.ndim else made


@tries(300)
@given(hook=st.sampled_from(HOOKS), answer=answers())
def test_any_answer_of_a_plugin_is_used_or_refused(
    hook: str, answer: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp() / "answers"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    with suppress(PluginError):
        run_pass(make(folder, odd=answering(hook, answer)))
