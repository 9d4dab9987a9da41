"""A run, stage by stage. Read this first."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import yaml

from dire_plug import home
from dire_plug.files import read_json, write_atomically, write_json
from dire_plug.pipeline.request import PlannedRun, Request, check_sizes, choose_device, plan_run, runs_root
from dire_plug.recipe import as_file
from dire_plug.runs import provenance
from dire_plug.runs.directory import RunFolder, run_folder
from dire_plug.runs.lock import hold
from dire_plug.stages.job import Job
from dire_plug.types import EXTRAS

if TYPE_CHECKING:
    from torch import Tensor

    from dire_plug.data import Dataset


@dataclass(frozen=True)
class FinishedRun:
    """A finished run and whether it had been there before."""

    folder: RunFolder
    metrics: dict[str, Any]
    reused: bool


@dataclass(frozen=True)
class AtWork:
    """A run while its stages are done, in this process."""

    job: Job

    @cached_property
    def condensed(self) -> tuple[Tensor, Tensor]:
        """The images that students and metrics read, as the recipe's `evaluate.source` says, and their labels.

        Decoded once for all stages, each of which holds them all anyway (ImageNet-1K's at IPC 50: 7.5 GB of uint8).
        """
        from dire_plug.stages.images import read_saved, read_tensors

        job = self.job
        if job.recipe.evaluate.source == "tensor":
            return read_tensors(job.folder)
        return read_saved(
            job.folder / "images",
            job.adapter,
            classes=job.classes,
            ipc=_saved_per_class(job),
            suffix=job.script.suffix,
        )


def run_arm(request: Request) -> FinishedRun:
    """Do all stages of one arm, or return the run if it is finished; go on with it if it was interrupted.

    Raises:
        DirePlugError: bad input; a stage failed; what is done is kept.
        RunBusyError: a live process works on the same run.
    """
    planned = plan_run(request)
    dataset = load_data(planned)
    job, run = open_job(planned, dataset)
    if run.state() == "finished":
        return FinishedRun(run, run.metrics(), reused=True)
    with hold(run.lock, what=f"the run {run.path}"):
        if run.state() == "finished":
            return FinishedRun(run, run.metrics(), reused=True)
        _record(planned, job, run)
        stage, work = "squeeze", AtWork(job)
        try:
            for stage, do in STAGES.items():
                run.set_status("running", stage=stage)
                do(work)
        except BaseException as error:
            run.set_status("failed" if isinstance(error, Exception) else "interrupted", stage=stage, error=str(error))
            raise
        metrics = _gather(job)
        write_json(run.path / "metrics.json", metrics)
        run.set_status("finished", stage=stage)
    return FinishedRun(run, metrics, reused=False)


def _squeeze(work: AtWork) -> None:
    """Train the teacher and the independent network, or find them in the cache."""
    from dire_plug.stages.squeeze import squeeze

    squeeze(work.job)


def _recover(work: AtWork) -> None:
    """Synthesize the images and look whether they collapsed, or take real ones, but for the arm `full`.

    Fills images/ and images.safetensors.
    """
    from dire_plug.stages.collapse import look_for_collapse
    from dire_plug.stages.recover import recover
    from dire_plug.stages.select import select_real
    from dire_plug.stages.squeeze import squeeze

    job = work.job
    if job.engine == "none":
        select_real(job)
        return
    recover(job)
    look_for_collapse(job, squeeze(job), *work.condensed)


def _evaluate(work: AtWork) -> None:
    """Train students on the images and test them; labels that the protocol stores are made first."""
    from dire_plug.stages.evaluate import evaluate
    from dire_plug.stages.full import FULL, every_image, plan_budget, with_budget
    from dire_plug.stages.squeeze import squeeze

    job = work.job
    if job.arm == FULL:
        budget = plan_budget(job)
        result = evaluate(with_budget(job, budget), squeeze(job), *every_image(job)) | {"full": budget.to_json()}
    else:
        result = evaluate(job, squeeze(job), *work.condensed)
    write_json(job.folder / "evaluate" / "accuracy.json", result)


def _measure(work: AtWork) -> None:
    """Measure the images' diversity in T and I."""
    from dire_plug.stages.full import FULL
    from dire_plug.stages.measure import measure, measure_training_set
    from dire_plug.stages.squeeze import squeeze

    job = work.job
    networks = squeeze(job)
    found = measure_training_set(job, networks) if job.arm == FULL else measure(job, networks, *work.condensed)
    write_json(job.folder / "evaluate" / "diversity.json", found)


STAGES = {"squeeze": _squeeze, "recover": _recover, "evaluate": _evaluate, "measure": _measure}


def load_data(planned: PlannedRun) -> Dataset:
    """Load the recipe's dataset, without its validation images where the recipe holds some out.

    Raises:
        DirePlugError: the data aren't there, or a network of the recipe doesn't take images of their size.
    """
    found = read_data(planned)
    check_sizes(planned.resolved, found.size)
    return found


def read_data(planned: PlannedRun) -> Dataset:
    """Load the dataset as `load_data` does, whatever the recipe's networks take.

    Raises:
        DirePlugError: the data aren't there.
    """
    from dire_plug.data import hold_out, load

    recipe, request = planned.resolved.recipe, planned.request
    section = recipe.dataset
    found = load(section.name, root=request.data_root, size=section.size, limit=section.limit, offline=request.offline)
    return found if section.validation is None else hold_out(found, section.validation, judge=recipe.evaluate.judge)


def open_job(planned: PlannedRun, dataset: Dataset) -> tuple[Job, RunFolder]:
    """Return what stages receive, and the run's folder."""
    import torch

    from dire_plug.data import on_device

    request = planned.request
    device = torch.device(choose_device(request.device))
    run = run_folder(
        runs_root(request),
        method=request.method,
        recipe=planned.source.stem,
        arm=request.arm,
        seed=request.seed,
        identity=planned.run_identity(dataset=dataset.digest),
    )
    job = Job(
        recipe=planned.resolved.recipe,
        arm=request.arm,
        regularizers=planned.resolved.regularizers,
        adapter=planned.adapter,
        dataset=on_device(dataset, device),
        seed=request.seed,
        device=device,
        engine=planned.engine,
        folder=run.path,
        cache=home.cache(),
        offline=request.offline,
        accelerate=request.accelerate == "exact",
    )
    return job, run


def _record(planned: PlannedRun, job: Job, run: RunFolder) -> None:
    """Write recipe.yaml, provenance.json and plan.json."""
    run.make()
    resolved = planned.resolved
    content = yaml.safe_dump(as_file(resolved), sort_keys=False, allow_unicode=True)
    write_atomically(run.path / "recipe.yaml", content)
    identity = planned.run_identity(dataset=job.dataset.digest)
    identity["recipe"] = "recipe.yaml"
    upstream = planned.adapter.upstream
    facts = {
        **identity,
        "upstream": {"repository": upstream.repository, "commit": upstream.commit, "licence": upstream.licence},
        "classes": list(job.dataset.classes),
    }
    provenance.record(run.path / "provenance.json", facts, device=str(job.device))
    write_json(run.path / "plan.json", job.plan.to_json())


def _saved_per_class(job: Job) -> int:
    """Return how many images of a class lie in images/: IPC of real ones, else what the plan says."""
    return job.recipe.ipc if job.engine == "none" else job.plan.ipc


def _gather(job: Job) -> dict[str, Any]:
    from dire_plug.stages.collapse import read_signs
    from dire_plug.stages.squeeze import squeeze

    networks = squeeze(job)
    seconds, extras = job.folder / "seconds.json", job.folder / EXTRAS
    return {
        "arm": job.arm,
        "seed": job.seed,
        "engine": job.engine,
        "ipc": job.recipe.ipc,
        "judged": job.dataset.judged,
        "networks": networks.digests(),
        "accuracy": read_json(job.folder / "evaluate" / "accuracy.json"),
        "diversity": read_json(job.folder / "evaluate" / "diversity.json"),
        "extras": read_json(extras) if extras.is_file() else {},
        "collapse": read_signs(job.folder),
        "recover": read_json(seconds) if seconds.is_file() else None,
    }
