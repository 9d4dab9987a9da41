"""A script whose slots are independent, in child processes: it resumes at its slot, and batches are made apart."""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support.loop_upstream import INSERTIONS, make_loop, make_loop_known, write_patch
from support.paths import TESTS

from dire_plug.synthesis import collect, gather_losses
from dire_plug.upstream.job import ChildJob
from dire_plug.upstream.runner import run_alone, run_child
from dire_plug.upstream.source.vendor import vendor
from dire_plug.upstream.verify.runs import PASSES, Setup, read_hashes, set_up, set_up_answered, write_job


class KilledError(Exception):
    """Stands for the end of the parent."""


@pytest.fixture(scope="module")
def loop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, Setup]]]:
    """The loop's vendored tree, and what its runs by upstream's own plan and by a regrouped one share."""
    folder = tmp_path_factory.mktemp("loop")
    make_loop_known(folder / "known")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DIRE_PLUG_HOME", str(folder / "home"))
        patch.setenv("PYTHONPATH", f"{folder / 'known'}{os.pathsep}{TESTS}")
        adapter: Any = make_loop(folder)
        write_patch(adapter, INSERTIONS)
        tree = vendor(adapter)
        own = set_up(adapter, "synth", folder / "setup", run=run_alone)
        yield tree, {"keep": own, "regroup": set_up_answered(own, folder / "answered")}


def left(job: ChildJob) -> dict[str, Any]:
    """Return all that a run left: files, images as they were in the loop, losses."""
    assert job.trace is not None
    passes = {0: job.folder / PASSES}
    tensors = [tensor.tolist() for tensor in collect(passes)]
    files = read_hashes(job.folder).files
    return {"files": files, "tensors": tensors, "losses": gather_losses(passes)}


@pytest.mark.parametrize("plan", ["keep", "regroup"])
def test_a_child_that_was_killed_goes_on_at_its_slot(loop: Any, tmp_path: Path, plan: str) -> None:
    tree, setups = loop
    whole, killed = (write_job(setups[plan], tmp_path / name, tree, regularizers={}) for name in ("whole", "killed"))
    run_alone([whole], logs=[tmp_path / "log.txt"])

    def kill(event: dict[str, Any]) -> None:
        if event["event"] == "slot":
            raise KilledError

    with pytest.raises(KilledError):
        run_child(replace(killed, trace=None), log=tmp_path / "log.txt", on_event=kill)
    events: list[dict[str, Any]] = []
    run_child(killed, log=tmp_path / "log.txt", on_event=events.append)
    slots = [(event["batch"], event["before"]) for event in events if event["event"] == "slot"]
    assert slots[0] == (0, True)
    assert [batch for batch, _ in slots] == [0, 1]
    assert left(killed) == left(whole)


def test_two_children_that_make_a_batch_each_have_the_bits_of_one(loop: Any, tmp_path: Path) -> None:
    tree, setups = loop
    whole = write_job(setups["regroup"], tmp_path / "whole", tree, regularizers={})
    jobs = [write_job(setups["regroup"], tmp_path / f"batch-{number}", tree, regularizers={}) for number in range(2)]
    parts = [replace(job, synthesis={**(job.synthesis or {}), "batches": [at]}) for at, job in enumerate(jobs)]
    run_alone([whole, *parts], logs=[job.folder / "log.txt" for job in (whole, *parts)])
    for at, job in enumerate(parts):
        made = {path.name for path in (job.folder / PASSES).iterdir()}
        assert made == {f"pass-000-batch-000{at}.safetensors", f"losses-000-batch-000{at}.json"}
        for name in made:
            assert (job.folder / PASSES / name).read_bytes() == (whole.folder / PASSES / name).read_bytes()
    images, *_ = collect({0: whole.folder / PASSES})
    assert torch.isfinite(images).all()
