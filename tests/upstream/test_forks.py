"""The process that `verify` forks, and an upstream whose packages draw random numbers when they are imported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.loop_upstream import INSERTIONS, SYNTH, LoopAdapter, make_loop, make_loop_known, write_patch
from support.paths import TESTS

from dire_plug import home
from dire_plug.upstream import forks
from dire_plug.upstream.runner import run_alone
from dire_plug.upstream.source.vendor import require_vendored, vendor
from dire_plug.upstream.verify.verify import verify

IMPORTING = """
import json, sys
from pathlib import Path
import torch
from torch.utils._python_dispatch import TorchDispatchMode

calls = []
class Noting(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        calls.append(str(function))
        return function(*args, **(kwargs or {}))
def noting(name, right):
    return lambda *args, **kwargs: (calls.append(f"cuda.{name}"), right(*args, **kwargs))[1]
for name in ("is_available", "is_initialized", "device_count", "current_device", "init", "_lazy_init"):
    setattr(torch.cuda, name, noting(name, getattr(torch.cuda, name)))
from dire_plug.upstream import child, forks
with Noting():
    child.import_all(Path(sys.argv[1]))
seen = list(calls)
loaded = [name for name in ("torchvision", "scipy", "sklearn", "rich.style") if name in sys.modules]
print(json.dumps([seen, loaded, forks.find_what_forbids_forks()]))
"""
STARTS_A_THREAD = "import threading; threading.Thread(target=threading.Event().wait, daemon=True).start()\n"


def test_the_process_that_forks_only_imports(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text("import torchvision, scipy.linalg, sklearn.cluster\nfrom rich import style\n")
    environment = os.environ | forks.ONE_THREAD | {"PYTHONPATH": str(home.checkout())}
    command = [sys.executable, "-P", "-c", IMPORTING, str(tmp_path)]
    answer = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    calls, loaded, forbids = json.loads(answer.stdout)
    assert loaded == ["torchvision", "scipy", "sklearn", "rich.style"]
    # torchvision asks its own library for what it was built with
    assert set(calls) <= {"torchvision._cuda_version.default"}
    assert forbids == ""  # one thread, no CUDA


@pytest.fixture
def drawing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LoopAdapter:
    """The loop, which imports a package that draws, as its adapter does, which a patched run alone loads."""
    monkeypatch.setenv("DIRE_PLUG_HOME", str(tmp_path / "home"))
    make_loop_known(known := tmp_path / "known")
    (known / "drawn.py").write_text("import random\n\nrandom.random()\n")
    (known / "drawing.py").write_text("import drawn\nfrom support.loop_upstream import LoopAdapter\n")
    (known / "loop-0.1.dist-info" / "entry_points.txt").write_text("[dire_plug.methods]\nloop = drawing:LoopAdapter\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(known), str(TESTS)]))
    monkeypatch.syspath_prepend(str(known))
    adapter = make_loop(tmp_path / "loop", SYNTH.replace("import argparse", "import argparse, drawn"))
    write_patch(adapter, INSERTIONS)
    vendor(adapter)
    return adapter


def test_packages_that_draw_when_they_are_imported_leave_a_patch_inert(drawing: LoopAdapter, tmp_path: Path) -> None:
    (verdict,) = verify(drawing, workdir=tmp_path / "work")
    assert verdict.problems == {}


def test_where_forks_would_hang_each_run_is_a_process_of_its_own(
    drawing: LoopAdapter, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "known" / "drawn.py").write_text(STARTS_A_THREAD)
    with forks.open_forks(require_vendored(drawing), tmp_path / "forks") as run:
        assert run is run_alone
    assert "importing upstream's packages started 1 thread(s), so each run is a process" in capfd.readouterr().err
