"""Replacements that upstream's own code sees and nobody else: the clock, copies to the CPU, aliasing assignments."""

import itertools
import math
import os
import site
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path
from types import CodeType

import numpy
import pytest
import torch
from support.shim_isolation import run_as_upstream, shims_put_back

from dire_plug.errors import DirePlugError
from dire_plug.home import PACKAGE
from dire_plug.upstream import shims
from dire_plug.upstream.shims._frames import is_upstreams

INSIDE = str(PACKAGE / "made_up.py")
"""A path in this package: what runs there is not upstream's."""


@pytest.fixture(autouse=True)
def child_only() -> Iterator[None]:
    """Put everything back that a shim replaces."""
    with shims_put_back():
        yield


def compiled(source: str, file: str) -> CodeType:
    """Return code that seems to stand in `file`."""
    return compile(source, file, "exec")


def frame_in(file: str) -> bool:
    """Tell whether a frame in `file` counts as upstream's."""
    found: dict[str, object] = {"ask": lambda: is_upstreams(sys._getframe(1))}
    exec(compiled("answer = ask()", file), found)
    return bool(found["answer"])


@pytest.mark.parametrize(
    "file",
    [
        "<frozen runpy>",
        INSIDE,
        os.path.join(os.path.dirname(torch.__file__), "x.py"),
        os.path.join(sysconfig.get_path("purelib"), "x.py"),
        os.path.join(sysconfig.get_path("stdlib"), "x.py"),
        os.path.join(site.getusersitepackages(), "x.py"),
    ],
)
def test_code_of_python_torch_and_this_package_is_not_upstreams(file: str) -> None:
    assert not frame_in(file)


def test_code_anywhere_else_is_upstreams(tmp_path: Path) -> None:
    assert frame_in(str(tmp_path / "third_party" / "x.py"))
    assert frame_in("./models/x.py")
    assert frame_in(f"{PACKAGE}_next_to_it/x.py")


READ = "import time\nread = [int(time.time() * 1000) % 100000 for _ in range(4)]\n"


def read_clock(folder: Path, seed: int) -> list[int]:
    """Return four readings by upstream's code under a clock of this seed."""
    with shims_put_back():
        shims.install({"clock": {"seed": seed}}, device="cpu")
        found: list[int] = run_as_upstream(folder / "script.py", READ)["read"]
    return found


def test_upstreams_clock_depends_on_the_seed_alone(tmp_path: Path) -> None:
    first = read_clock(tmp_path, 1)
    assert first == read_clock(tmp_path, 1)
    assert first != read_clock(tmp_path, 2)
    assert len(set(first)) == 4


def test_upstreams_clock_grows_and_gives_every_seed_once_before_any_twice(tmp_path: Path) -> None:
    shims.install({"clock": {"seed": 3}}, device="cpu")
    source = "import time\ntimes = [time.time() for _ in range(100000)]\n"
    times = run_as_upstream(tmp_path / "script.py", source)["times"]
    assert all(later > earlier for earlier, later in itertools.pairwise(times))
    assert {int(value * 1000) % 100000 for value in times} == set(range(100000))


def test_the_clock_of_everybody_else_is_true() -> None:
    shims.install({"clock": {"seed": 3}}, device="cpu")
    found: dict[str, float] = {}
    exec(compiled("import time\nread = time.time()\n", INSIDE), found)
    assert abs(found["read"] - time.clock_gettime(time.CLOCK_REALTIME)) < 60


def test_a_clock_without_a_seed_is_refused() -> None:
    with pytest.raises(DirePlugError, match=r"shim 'clock' .*missing a required .*'seed'"):
        shims.install({"clock": {}}, device="cpu")


SNAPSHOT = """
import torch
live = torch.nn.Parameter(torch.zeros(2))
kept = live.detach().cpu()
live.data += 1
graph = live.cpu().sum()
graph.backward()
"""


@pytest.mark.parametrize("name", ["buffer.py", "utils.py"])
def test_upstreams_copies_to_the_cpu_are_copies(tmp_path: Path, name: str) -> None:
    shims.install({"cpu_copy": {}}, device="cpu")
    made = run_as_upstream(tmp_path / name, SNAPSHOT)
    assert made["kept"].tolist() == [0, 0]
    assert made["live"].grad.tolist() == [1, 1]


def test_copies_can_be_kept_to_the_files_that_need_them(tmp_path: Path) -> None:
    shims.install({"cpu_copy": {"files": ["mtt/buffer.py"]}}, device="cpu")
    assert run_as_upstream(tmp_path / "mtt" / "buffer.py", SNAPSHOT)["kept"].tolist() == [0, 0]
    assert run_as_upstream(tmp_path / "dm" / "buffer.py", SNAPSHOT)["kept"].tolist() == [1, 1]
    assert run_as_upstream(tmp_path / "mtt" / "mybuffer.py", SNAPSHOT)["kept"].tolist() == [1, 1]


def test_nobody_elses_copies_to_the_cpu_cost_anything(tmp_path: Path) -> None:
    shims.install({"cpu_copy": {}}, device="cpu")
    found: dict[str, object] = {"tensor": torch.zeros(1)}
    exec(compiled("same = tensor.cpu() is tensor", INSIDE), found)
    assert found["same"]


def test_on_a_cuda_device_copies_are_left_alone() -> None:
    before = torch.Tensor.cpu
    shims.install({"cpu_copy": {}}, device="cuda:0")
    assert torch.Tensor.cpu is before


ALIAS = """
import torch
torch.manual_seed(0)
random = torch.rand(number, 1, 1, 1)
before = random.clone()
random[:] = random[0]
"""


def test_one_image_can_be_assigned_its_own_element(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="single memory location"):
        run_as_upstream(tmp_path / "utils.py", f"number = 1{ALIAS}")
    shims.install({"setitem_alias": {}}, device="cpu")
    for number in (1, 3):
        made = run_as_upstream(tmp_path / "utils.py", f"number = {number}{ALIAS}")
        assert torch.equal(made["random"], made["before"][:1].expand(number, 1, 1, 1))


def test_other_assignments_are_as_they_were(tmp_path: Path) -> None:
    shims.install({"setitem_alias": {}}, device="cpu")
    source = """
import torch
leaf = torch.ones(2, requires_grad=True)
made = torch.zeros(2)
made[torch.tensor([True, False])] = 5.0
made[1:] = leaf[1:] * 3
made.sum().backward()
sparse = torch.eye(2).to_sparse()
"""
    made = run_as_upstream(tmp_path / "utils.py", source)
    assert made["made"].tolist() == [5, 3]
    assert made["leaf"].grad.tolist() == [0, 3]


def test_nobody_elses_aliasing_assignment_is_changed() -> None:
    shims.install({"setitem_alias": {}}, device="cpu")
    with pytest.raises(RuntimeError, match="single memory location"):
        exec(compiled("number = 1" + ALIAS, INSIDE), {})


def test_upstream_alone_lists_a_folder_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unsorted = ["b.png", "a.png", "c.png"]
    listed = os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: list(unsorted) if path == "x" else listed(path))
    shims.install({"sorted_listing": {}}, device="cpu")
    made = run_as_upstream(tmp_path / "script.py", "import os\nfound = os.listdir('x')\n")
    assert made["found"] == ["a.png", "b.png", "c.png"]
    elsewhere: dict[str, list[str]] = {}
    exec(compiled("import os\nfound = os.listdir('x')\n", INSIDE), elsewhere)
    assert elsewhere["found"] == unsorted


def test_the_cycle_of_seeds_has_no_shorter_one_inside() -> None:
    from dire_plug.upstream.shims import clock

    assert math.gcd(clock.STEP, clock.CYCLE) == 1
    assert numpy.unique(numpy.arange(clock.CYCLE) * clock.STEP % clock.CYCLE).size == clock.CYCLE
