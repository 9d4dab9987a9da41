"""Run one arm, stage by stage. Read this first."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import yaml

from dire_plug import ui
from dire_plug.files import write_atomically, write_json
from dire_plug.pipeline.gpu_memory import check_gpu_memory, gpu_memory
from dire_plug.pipeline.request import check_batches, check_counts, plan_run, with_data
from dire_plug.recipe import as_file
from dire_plug.recipe.check import FULL
from dire_plug.recipe.evaluate import EvaluateSection
from dire_plug.stages.artefacts import (
    Networks,
    Source,
    embeddings_of,
    name_collapse,
    name_inputs,
    name_measured,
    name_missing_batches,
    name_networks,
    name_radii,
    name_reference,
    name_source,
    name_students,
    name_term_embeddings,
)
from dire_plug.stages.collapse_check import check_collapse
from dire_plug.stages.embed import embed
from dire_plug.stages.evaluate import evaluate
from dire_plug.stages.images import ImageSet
from dire_plug.stages.measure import measure
from dire_plug.stages.prepare import prepare
from dire_plug.stages.real_images import plan_budget, with_budget
from dire_plug.stages.recover import recover
from dire_plug.stages.squeeze import check_checkpoints, squeeze
from dire_plug.store import provenance
from dire_plug.store.artefacts import differences
from dire_plug.store.cleaning import register
from dire_plug.store.lease import Lease, hold, until_kept
from dire_plug.store.runs import ARTEFACTS, METRICS, FinishedRun, Request, Run, RunFolder, run_folder
from dire_plug.types.artefact import Artefact
from dire_plug.upstream.source.patching import patch_digest
from dire_plug.upstream.source.vendor import patch_files

ON_DEMAND = ("embeddings", "radii", "reference")
"""Kinds that a stage makes only for another artefact; a finished run can do without them."""


@until_kept
def run_arm(request: Request) -> FinishedRun:
    """Run all stages of one arm; what the store has of them, whichever run made it, isn't made again.

    Raises:
        DirePlugError: the input is bad, the GPU too small, or a stage failed; what is finished is kept.
        RunBusyError: another process works on the same run, and the request doesn't wait.
    """
    run = with_data(plan_run(request))
    roles = name_artefacts(run)
    check_run(run, roles)
    folder = run_folder(run, list(roles.values()))
    made_before = len(run.store.made)
    say_accelerated(run)
    with (
        hold(folder.lease, wait=float("inf") if request.wait else 0, what=f"the run {folder.path}") as lease,
        _following(folder, run, roles, lease) as begin,
    ):
        # before the first write: `begin` changes the state
        finished = folder.state() == "finished"
        _record(run, roles, folder)
        # before anything is used: from here on `clean` keeps what this run names
        register(run.store.root, run.root, folder.artefacts())
        begin("squeeze")
        networks = squeeze(run)
        begin("prepare")
        inputs = prepare(run, networks)
        begin("embed")
        embeddings = embed(run, networks, inputs)
        begin("recover")
        images = recover(run, networks, inputs, embeddings, folder=folder.path)
        collapse = check_collapse(run, networks, images) if images.synthesized else None
        begin("evaluate")
        accuracy = evaluate_arm(run, networks, images)
        begin("measure")
        diversity = measure(run, networks, images)
        metrics = {
            "arm": run.arm,
            "seed": run.seed,
            "engine": run.engine,
            "ipc": run.recipe.ipc,
            "judged": run.dataset.judged,
            "networks": {name: run.store.content(one) for name, one in networks.all.items()},
            "accuracy": accuracy,
            "diversity": diversity,
            "extras": dict(images.extras),
            **_accelerated(run),
            "collapse": collapse,
            "recover": _seconds(run, images),
        }
        reused = finished and len(run.store.made) == made_before
        lease.require()
        if not reused or not (folder.path / METRICS).is_file():
            write_json(folder.path / METRICS, metrics)
            # without the batches: their passes are there
            _record_artefacts(run, roles, folder)
    return FinishedRun(folder, metrics, reused, tuple(_notes(run, roles)))


def say_accelerated(run: Run) -> None:
    """Print where `--accelerate` acts in a run, and what this machine can't do of it."""
    option, method = run.request.accelerate, run.adapter.title
    if option == "exact" and run.engine != "none":
        acts = "acts in the last batch of each pass alone" if run.adapter.freezes_after_first_step else "does nothing"
        ui.say_once(f"--accelerate exact: {acts} in {method}'s loop")
    if option != "fast":
        return
    found = [("networks, labels and students", run.trained_with)]
    if run.engine != "none":
        found.insert(0, (f"{method}'s loop", run.components))
    for where, components in found:
        ui.say_once(f"--accelerate fast: {where}: {components}")
        for name, why in components.left_out.items():
            ui.say_once(f"--accelerate fast: {where}: without {name}: {why}")


def _accelerated(run: Run) -> dict[str, Any]:
    """Return what metrics and provenance say of `--accelerate fast`; nothing without it."""
    if run.request.accelerate != "fast":
        return {}
    return {"accelerate": {"synthesis": list(run.components.names), "networks": list(run.trained_with.names)}}


def announce(run: Run) -> None:
    """Let `clean` keep what a run will consist of, before any of it is made.

    Raises:
        DirePlugError: see `check_run`.
    """
    roles = name_artefacts(run)
    check_run(run, roles)
    folder = run_folder(run, list(roles.values()))
    folder.make()
    _record_artefacts(run, roles, folder)
    register(run.store.root, run.root, folder.artefacts())


def check_run(run: Run, roles: Mapping[str, Artefact]) -> None:
    """Raise for what a late stage would refuse, before anything is trained.

    Raises:
        DirePlugError: images are too few, a batch would hold one, a checkpoint can't serve, or the GPU is too small.
    """
    check_counts(run)
    check_batches(run)
    check_checkpoints(run)
    check_gpu(run, roles)


def check_gpu(run: Run, roles: Mapping[str, Artefact]) -> None:
    """Raise where passes of a run's synthesis are missing and its GPU is too small for them."""
    passes = list(roles["images"].inputs.values()) if "images" in roles else []
    check_gpu_memory(run, passes, total=gpu_memory(run.device, gpus=run.gpus))


def evaluate_arm(run: Run, networks: Networks, images: ImageSet) -> dict[str, Any]:
    """Return the accuracies of a run's students; those of the arm `full` train for about a subset's steps."""
    section, budget = _section_and_budget(run)
    return evaluate(run, networks, images, section=section) | budget


def _section_and_budget(run: Run) -> tuple[EvaluateSection, dict[str, Any]]:
    section = run.recipe.evaluate
    if run.arm != FULL or run.engine != "none":
        return section, {}
    budget = plan_budget(run, section, ipc=run.recipe.ipc)
    return with_budget(section, budget), {"full": budget.to_json()}


def section_of(run: Run) -> EvaluateSection:
    """Return the protocol of a run's students; those of the arm `full` train for about a subset's steps."""
    return _section_and_budget(run)[0]


def name_measures(run: Run, networks: Networks, source: Source) -> list[Artefact]:
    """Return what measuring a run's images ends in: their diversity in T and I, and whether they collapsed."""
    found = [name_measured(run, network, source) for network in (networks.teacher, networks.independent)]
    return found if run.engine == "none" else [*found, name_collapse(run, networks, source)]


def name_artefacts(run: Run) -> dict[str, Artefact]:
    """Return role → artefact of what a run ends in, without making any: with their inputs, all that it consists of."""
    networks = name_networks(run)
    inputs = name_inputs(run, networks)
    embeddings = name_term_embeddings(run, networks, inputs)
    source = name_source(run, networks, inputs, embeddings)
    # with the budget's epochs: they decide the students of `full`
    students = name_students(run, networks, source, _section_and_budget(run)[0])
    found: dict[str, Artefact] = {**networks.all, **source.artefacts}
    if run.engine != "none":
        found["collapse"] = name_collapse(run, networks, source)
    for architecture, artefacts in students.items():
        found |= {f"student {architecture} {k}": one for k, one in enumerate(artefacts)}
    for name, network in (("T", networks.teacher), ("I", networks.independent)):
        real, held_out = embeddings_of(run, network), embeddings_of(run, network, split="test")
        found[f"real in {name}"] = real
        found[f"radii in {name}"] = name_radii(run, real)
        found[f"reference in {name}"] = name_reference(run, real, held_out, per_class=run.recipe.ipc)
        found[f"diversity in {name}"] = name_measured(run, network, source)
    return found


@contextlib.contextmanager
def _following(
    folder: RunFolder, run: Run, roles: dict[str, Artefact], lease: Lease
) -> Iterator[Callable[[str], None]]:
    """Yield a function to call with the stage that begins; keep status.json true, however the block ends.

    A finished run of which nothing is missing is only shown again: it stays finished unless something is made after
    all. Nothing is written once another process has taken the run over.
    """
    stage, made_before = "squeeze", len(run.store.made)
    shown_again: bool | None = None

    def begin(name: str) -> None:
        nonlocal stage, shown_again
        lease.require()
        stage = name
        if shown_again is None:
            shown_again = folder.state() == "finished" and _is_whole(run, roles)
        shown_again = shown_again and len(run.store.made) == made_before
        if not shown_again:
            folder.set_status("running", stage=stage)

    try:
        yield begin
    except BaseException as error:
        if not shown_again and not lease.is_lost():
            state = "failed" if isinstance(error, Exception) else "interrupted"
            folder.set_status(state, stage=stage, error=str(error))
        raise
    if not shown_again or len(run.store.made) > made_before:
        lease.require()
        folder.set_status("finished", stage=stage)


def _is_whole(run: Run, roles: dict[str, Artefact]) -> bool:
    """Return whether the store holds, sound, all that the stages of a run would otherwise make."""
    needed = {name: one for end in roles.values() for name, one in end.closure().items()}
    return all(run.store.find(one) is not None for one in needed.values() if one.kind not in ON_DEMAND)


def _record(run: Run, roles: dict[str, Artefact], folder: RunFolder) -> None:
    """Write recipe.yaml, provenance.json, plan.json and artefacts.json."""
    folder.make()
    content = yaml.safe_dump(as_file(run.resolved), sort_keys=False, allow_unicode=True)
    write_atomically(folder.path / "recipe.yaml", content)
    upstream, runs_it = run.adapter.upstream, run.engine == "upstream"
    facts = {
        "recipe": "recipe.yaml",
        "arm": run.arm,
        "seed": run.seed,
        "engine": run.engine,
        "commit": upstream.commit if runs_it else None,
        "patch": patch_digest(patch_files(run.adapter)) if runs_it else None,
        "dataset": run.dataset.digest,
        "upstream": {"repository": upstream.repository, "commit": upstream.commit, "licence": upstream.licence},
        "classes": list(run.dataset.classes),
        **_accelerated(run),
    }
    if folder.state() != "finished":
        # only of sessions that worked on the run: showing a finished one is no work
        provenance.record(folder.path / "provenance.json", facts, device=str(run.device))
    write_json(folder.path / "plan.json", run.plan.to_json())
    _record_artefacts(run, roles, folder)


def _record_artefacts(run: Run, roles: dict[str, Artefact], folder: RunFolder) -> None:
    """Write artefacts.json: what the run consists of and, as long as a pass is missing, that pass's batches."""
    named = {one.name: role for role, one in roles.items()}
    # an entry that no role names is listed with its kind
    behind = {name: one.kind for end in roles.values() for name, one in end.closure().items()}
    behind |= {one.name: one.kind for one in name_missing_batches(run)}
    write_json(folder.path / ARTEFACTS, dict(sorted((behind | named).items())))


def _seconds(run: Run, images: ImageSet) -> dict[str, Any] | None:
    """Return the seconds of all passes of a synthesis and the hardware, where both are known and one machine's.

    None for real images.
    """
    gathered = images.source.artefacts.get("images")
    if gathered is None:
        return None
    made = [found for one in gathered.inputs.values() if (found := run.store.how_made(one)) is not None]
    seconds = [one["seconds"] for one in made]
    hardware = {str(one["hardware"]): one["hardware"] for one in made}
    # passes of several machines have no common clock, and those of a killed process none at all
    if None in seconds or len(hardware) != 1:
        return {"seconds": None, "hardware": None}
    return {"seconds": round(sum(seconds), 3), "hardware": next(iter(hardware.values()))}


def _notes(run: Run, roles: dict[str, Artefact]) -> Iterator[str]:
    """Yield what of a run was made with other threads, on another device or with another torch than here."""
    here = provenance.session(str(run.device))
    named = {one.name: role for role, one in roles.items()}
    found: dict[tuple[str, ...], list[str]] = {}
    for end in roles.values():
        for name, one in end.closure().items():
            if name not in run.store.made and (made := run.store.how_made(one)) is not None:
                differs = tuple(differences(made, here))
                who = found.setdefault(differs, [])
                if (role := named.get(name, one.kind)) not in who:
                    who.append(role)
    for differs, who in found.items():
        if differs:
            yield f"reused, made with {', '.join(differs)}: {', '.join(who)}"
