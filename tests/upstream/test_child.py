"""The child process: what it does to a script, and how parent and child end together."""

import json
import os
import random
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from safetensors.torch import save_file
from support.paths import TESTS
from support.shim_isolation import shims_put_back
from support.toy_upstream import CLASSES, SCRIPT, make_adapter, make_known, make_script, make_toy

from dire_plug import bridge
from dire_plug.errors import DirePlugError
from dire_plug.files import make_folder
from dire_plug.recipe.model import RecoverSection
from dire_plug.seeding import derive, seed_everything
from dire_plug.synthesis import SynthesisSpec
from dire_plug.upstream import child
from dire_plug.upstream.job import ChildJob
from dire_plug.upstream.runner import run_child
from dire_plug.upstream.source.tree import verify_tree, write_manifest
from dire_plug.upstream.source.vendor import unpatched_copy, vendor
from dire_plug.upstream.verify.runs import RunHashes, read_hashes


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The toy, vendored with and without its patch, its weights, and its adapter known to a child."""
    folder = tmp_path_factory.mktemp("toy")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIRE_PLUG_HOME", str(folder / "home"))
        adapter = make_adapter(make_toy(folder))
        tree = vendor(adapter)
        pristine = unpatched_copy(adapter, tree, folder / "pristine")
    network = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(12, 4), torch.nn.ReLU(), torch.nn.Linear(4, CLASSES)
    )
    for number, parameter in enumerate(network.parameters()):
        parameter.data = torch.arange(parameter.numel()).reshape(parameter.shape).sub(number).cos()
    torch.save(network.state_dict(), folder / "weights.pt")
    make_known(folder / "known")
    real = {"values": torch.rand(CLASSES, 4), "labels": torch.arange(CLASSES)}
    save_file(real, folder / "real.safetensors")
    files = {name: folder / name for name in ("known", "weights.pt", "real.safetensors")}
    return {"patched": tree, "pristine": pristine, **{name.partition(".")[0]: path for name, path in files.items()}}


@pytest.fixture(autouse=True)
def same_process(monkeypatch: pytest.MonkeyPatch, trees: dict[str, Path]) -> Iterator[None]:
    """Let a test run the child's code in its own process, and put back what that changes."""
    monkeypatch.syspath_prepend(str(trees["known"]))
    monkeypatch.setenv("PYTHONPATH", f"{trees['known']}{os.pathsep}{TESTS}")
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    threads = torch.get_num_threads()
    with shims_put_back():
        yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)
    bridge.attach(None)


def make_job(trees: dict[str, Path], folder: Path, *, patched: bool = True, **changes: Any) -> ChildJob:
    """Return a job for the toy; with the regularizers named in `regularizers`."""
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    regularizers = changes.pop("regularizers", {})
    spec = SynthesisSpec(
        adapter="toy",
        recover=RecoverSection(script="synth", flags={}).model_dump(),
        regularizers=regularizers,
        classes=CLASSES,
        ipc=2,
        steps=2,
        seed=5,
        device="cpu",
        start={"kind": "noise", "shape": None, "file": None},
        real={"teacher": str(trees["real"])},
        passes=str(folder / "passes"),
    )
    job = ChildJob(
        tree=trees["patched" if patched else "pristine"],
        script=SCRIPT,
        arguments=("--out", str(images), "--weights", str(trees["weights"])),
        folder=folder,
        passes=(0, 1),
        pass_arguments={0: ("--pass", "0"), 1: ("--pass", "1")},
        synthesis=spec.to_json() if patched else None,
        seed=5,
        trace=folder / "trace.jsonl",
    )
    return replace(job, **changes)


def run_here(job: ChildJob) -> tuple[RunHashes, list[dict[str, Any]]]:
    events: list[dict[str, Any]] = []
    child.run_job(job, events.append)
    assert job.trace is not None
    return read_hashes(job.folder), events


def test_a_patched_script_without_a_term_computes_the_same_bits(trees: dict[str, Path], tmp_path: Path) -> None:
    published, _ = run_here(make_job(trees, tmp_path / "a", patched=False))
    again, _ = run_here(make_job(trees, tmp_path / "b", patched=False))
    patched, events = run_here(make_job(trees, tmp_path / "c"))
    probed, _ = run_here(make_job(trees, tmp_path / "d", regularizers={"verify-probe": {}}))
    assert published == again == patched
    assert published.steps != probed.steps
    assert (len(published.steps), len(published.files)) == (4, 2 * CLASSES)
    assert len(set(published.steps)) == 4
    assert [event["pass"] for event in events if event["event"] == "pass"] == [0, 1]


def test_each_pass_draws_the_same_whether_or_not_others_run_before_it(trees: dict[str, Path], tmp_path: Path) -> None:
    both, _ = run_here(make_job(trees, tmp_path / "both", patched=False))
    second, _ = run_here(make_job(trees, tmp_path / "second", patched=False, passes=(1,)))
    assert second.steps == both.steps[2:]
    assert both.steps[2:] != both.steps[:2]
    other, _ = run_here(make_job(trees, tmp_path / "other", patched=False, seed=6))
    assert other.steps != both.steps


def test_a_script_can_be_stopped_after_some_steps(trees: dict[str, Path], tmp_path: Path) -> None:
    whole, _ = run_here(make_job(trees, tmp_path / "whole", patched=False))
    evidence, events = run_here(make_job(trees, tmp_path / "part", stop_after_steps=3))
    assert evidence.steps == whole.steps[:3]
    assert set(evidence.files) == {name for name in whole.files if name.endswith("-0.txt")}
    assert events[-1] == {"event": "stopped", "steps": 3}


def test_the_child_refuses_a_tree_that_changed_since(trees: dict[str, Path], tmp_path: Path) -> None:
    tree = make_script(tmp_path, "print('ran')\n").tree
    (tree / "script.py").write_text("print('changed')\n")
    with pytest.raises(DirePlugError, match=r"script\.py: was changed"):
        child.run_job(ChildJob(tree, "script.py", (), tmp_path), print)


COUNT = "seen = []\n"
NOTE = "import counter, package.inner, sys\ncounter.seen.append(sys.argv[1])\npackage.inner.seen += counter.seen\n"
PRINT = "print(package.inner.seen)\n"


def test_what_upstreams_modules_keep_does_not_reach_the_next_pass(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = tmp_path / "tree"
    for name, text in {"script.py": NOTE + PRINT, "counter.py": COUNT, "package/inner.py": COUNT}.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text)
    write_manifest(tree, method="own", repository="", commit="", patches={})
    job = ChildJob(tree, "script.py", (), tmp_path, passes=(0, 1), pass_arguments={0: ("0",), 1: ("1",)})
    child.run_job(job, lambda event: None)
    assert capsys.readouterr().out == "['0']\n['1']\n"
    assert not {"counter", "package", "package.inner"} & sys.modules.keys()


FROM_ITS_FOLDER = """\
import pathlib
import sys
sys.path.append("..")
from models.factory import WIDTH
pathlib.Path("../log").mkdir(exist_ok=True)
pathlib.Path("../log/settings").write_text(f"{WIDTH} {pathlib.Path.cwd().name}")
pathlib.Path(__file__).with_name("cache").touch()
"""


def test_a_script_runs_in_its_own_folder_and_its_tree_stays_as_it_was(tmp_path: Path) -> None:
    tree, before = tmp_path / "tree", Path.cwd()
    for name, text in {"recover/script.py": FROM_ITS_FOLDER, "models/factory.py": "WIDTH = 3\n"}.items():
        make_folder((tree / name).parent)
        (tree / name).write_text(text)
    write_manifest(tree, method="own", repository="", commit="", patches={})
    child.run_job(ChildJob(tree, "recover/script.py", (), tmp_path, passes=(0, 1)), lambda event: None)
    verify_tree(tree)
    assert (tmp_path / "scratch" / "cwd" / "log" / "settings").read_text() == "3 recover"
    assert "models.factory" not in sys.modules
    assert Path.cwd() == before


def test_a_script_runs_offline_even_where_its_adapter_names_no_shim(tmp_path: Path) -> None:
    script = "import socket\nsocket.create_connection(('example.invalid', 80))\n"
    with pytest.raises(OSError, match="it has no network under dire-plug"):
        child.run_job(make_script(tmp_path, script), print)


def test_a_job_survives_its_file(trees: dict[str, Path], tmp_path: Path) -> None:
    job = make_job(trees, tmp_path, shims={"device": {}}, stop_after_steps=2)
    assert ChildJob.read(job.write()) == replace(job, synthesis=json.loads(json.dumps(job.synthesis)))


def test_a_job_of_another_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "job.json").write_text("{}")
    with pytest.raises(DirePlugError, match="not a job of this version"):
        ChildJob.read(tmp_path / "job.json")


def test_seeding_reaches_every_generator_and_depends_on_seed_and_pass() -> None:
    def draw(seed: int, number: int) -> tuple[float, float, float]:
        seed_everything(seed, number)
        return random.random(), float(numpy.random.random()), float(torch.rand(()))

    kept = random.getstate(), numpy.random.get_state(), torch.get_rng_state()
    draws = [draw(0, 0), draw(0, 1), draw(1, 0)]
    again = draw(0, 0)
    random.setstate(kept[0])
    numpy.random.set_state(kept[1])
    torch.set_rng_state(kept[2])
    assert again == draws[0]
    assert all(len(set(values)) == 3 for values in zip(*draws, strict=True))


def test_a_derived_seed_is_the_same_on_every_machine() -> None:
    assert derive(0, "torch", 1) == 560454992


@pytest.mark.slow
def test_a_true_child_runs_the_patched_script_with_its_shims(trees: dict[str, Path], tmp_path: Path) -> None:
    here, _ = run_here(make_job(trees, tmp_path / "here", threads=1))
    shims: dict[str, dict[str, Any]] = {"device": {}, "torch_load": {}, "network": {}}
    job = make_job(trees, tmp_path / "there", threads=1, shims=shims)
    events: list[dict[str, Any]] = []
    run_child(job, log=tmp_path / "log.txt", on_event=events.append)
    assert job.trace is not None
    assert read_hashes(job.folder) == here
    assert [event["pass"] for event in events if event["event"] == "pass"] == [0, 1]
    assert {"pass 0", "pass 1"} <= set((tmp_path / "log.txt").read_text().splitlines())
    assert not list(job.tree.rglob("__pycache__"))
