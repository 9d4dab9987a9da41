"""Name each artefact of a run by what decides it: the contents of its digest, kind by kind, in the order of the stages.

A name is a function of settings, data and code alone, so all of a run's are known before anything is made. Each kind
has a revision, raised when the same settings give other bits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dire_plug import plugins
from dire_plug.acceleration import NONE, Components
from dire_plug.data import normalisation_of
from dire_plug.data.folders import FolderSplit
from dire_plug.files import digest, digest_unchanged, expand_user
from dire_plug.models import stem_like
from dire_plug.models.architectures import TORCHVISION
from dire_plug.models.pretrained import Pretrained
from dire_plug.recipe.check import CHOSEN, FULL
from dire_plug.recipe.evaluate import EvaluateSection
from dire_plug.recipe.model import RDED, TrainingSection
from dire_plug.recipe.weight import KEY as WEIGHT
from dire_plug.recipe.weight import PLAIN
from dire_plug.seeding import derive
from dire_plug.store.runs import Run
from dire_plug.types import LOOP, LoopInputs, Slot
from dire_plug.types.artefact import Artefact
from dire_plug.upstream.source.patching import patch_digest
from dire_plug.upstream.source.vendor import patch_files

REVISIONS = {
    "network": 1,
    "embeddings": 1,
    "real": 1,
    "start": 1,
    "whitening": 1,
    "prepared": 1,
    "expert": 1,
    "batch": 1,
    "pass": 2,
    "images": 1,
    "subset": 1,
    "pixels": 1,
    "labels": 1,
    "student": 1,
    "radii": 1,
    "reference": 2,
    "diversity": 2,
    "collapse": 1,
}
"""Kind → raised when the same settings give other bits; tests/golden fails where bits change without it."""
NATIVE_REVISION = 1
"""Of the native loops' mathematics."""
PATCHES_REVISION = 1
"""Of the images of real patches, which are an arm's or a loop's start."""

SplitName = Literal["train", "test"]
Mode = Literal["eval", "train"]

MAIN: Literal["teacher"] = "teacher"
INDEPENDENT: Literal["independent"] = "independent"
LABELLER: Literal["labeller"] = "labeller"
TEACHER_SEED = 0
INDEPENDENT_SEED = 1
SMALL_STEM_UP_TO = 64
"""Pixels of a side up to which a network of the dataset's own has the small stem, whatever the script's networks have:
at 224 px it would take 16 times the operations of the published one."""
FROZEN_SEED = 100
"""Of the networks that only terms see, which differ in architecture; far from those of the loop's."""
EXPERT = "expert"
"""The key of an expert's last snapshot, where the terms work in that."""
DRAWS = 5
"""Sets of real test images whose mean is the reference of the diversity metrics."""

SEVERAL = ("static-labels", "dynamic-labels", "ensemble-labels", "fkd-ensemble", "cv-dd")
"""The protocols in which all networks in the loop label; in the others the first does, or none."""
_PER_STUDENT = {"students", "per_synthesis"}
_NOT_OF_LABELS = {*_PER_STUDENT, "lr", "weight_decay", "gamma", "accumulate", "temperature", "test_from", "test_every"}


def _artefact(kind: str, decided_by: Mapping[str, Any], inputs: Mapping[str, Artefact] | None = None) -> Artefact:
    return Artefact(kind, {"revision": REVISIONS[kind], **decided_by}, inputs or {})


# Networks.


@dataclass(frozen=True)
class Role:
    """One network of a run, made or still to be made.

    Attributes:
        name: `teacher`, `independent`, or the recipe's key of a further one.
        section: how it is trained, or where its weights are.
        stem: of its architecture.
        seed: of its initial weights and its training.
        outputs: the width of its head.
        mean, std: the normalisation of the images that it takes.
    """

    name: str
    section: TrainingSection
    stem: str
    seed: int
    outputs: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True)
class Networks:
    """The networks of a run: T, I, the further ones in the loop by their key, those that only terms see, and the one
    that labels instead of T."""

    teacher: Artefact
    independent: Artefact
    others: Mapping[str, Artefact] = field(default_factory=dict)
    frozen: Mapping[str, Artefact] = field(default_factory=dict)
    labeller: Artefact | None = None

    @property
    def in_loop(self) -> dict[str, Artefact]:
        """Key → network of those that synthesize, T first."""
        return {MAIN: self.teacher, **self.others}

    @property
    def of_students(self) -> dict[str, Artefact]:
        """Key → network of those in the loop, and of the one that labels instead of them."""
        return self.in_loop if self.labeller is None else {**self.in_loop, LABELLER: self.labeller}

    @property
    def all(self) -> dict[str, Artefact]:
        """Key → network."""
        return {**self.of_students, INDEPENDENT: self.independent, **self.frozen}

    def labelling(self, protocol: str) -> dict[str, Artefact]:
        """Return the networks that label in a protocol; the first also says how images are normalised."""
        if self.labeller is not None:
            return {MAIN: self.labeller}
        return self.in_loop if protocol in SEVERAL else {MAIN: self.teacher}


def roles_in_loop(run: Run) -> list[Role]:
    """Return T and the further networks in the loop, in the recipe's order."""
    section = run.recipe.squeeze
    found = [_role(run, MAIN, section.teacher, TEACHER_SEED)]
    for number, (name, one) in enumerate(section.others.items(), start=1):
        found.append(_role(run, name, one, INDEPENDENT_SEED + number))
    return found


def role_of_independent(run: Run) -> Role:
    """Return I: of the dataset's own classes and normalisation, so that it is one network whatever the method."""
    return _role_of_dataset(run, INDEPENDENT, run.recipe.squeeze.independent, INDEPENDENT_SEED)


def roles_of_students(run: Run) -> list[Role]:
    """Return the networks in the loop and, where the recipe has one, the network that labels instead of them."""
    labeller = role_of_labeller(run)
    return [*roles_in_loop(run), *([] if labeller is None else [labeller])]


def roles_that_label(run: Run, protocol: str) -> list[Role]:
    """Return the networks that label in a protocol."""
    if (labeller := role_of_labeller(run)) is not None:
        return [labeller]
    loop = roles_in_loop(run)
    return loop if protocol in SEVERAL else loop[:1]


def role_of_labeller(run: Run) -> Role | None:
    """Return the network that labels instead of those in the loop; None where the recipe has none."""
    section = run.recipe.squeeze.labeller
    return None if section is None else _role_of_dataset(run, LABELLER, section, TEACHER_SEED)


def _role_of_dataset(run: Run, name: str, section: TrainingSection, seed: int) -> Role:
    """Return a network of the dataset's own classes and normalisation."""
    published = (section.checkpoint or "").startswith(TORCHVISION)
    large = published or run.dataset.size > SMALL_STEM_UP_TO
    stem = stem_like(section.architecture, "imagenet" if large else "small")
    mean, std = normalisation_of(run.dataset)
    return Role(name, section, stem, seed, run.classes, mean, std)


def roles_frozen(run: Run) -> list[Role]:
    """Return the networks outside of the loop in which the recipe's terms work; none in an arm without a term."""
    sections = run.recipe.term.frozen(run.recipe.squeeze) if run.regularizers else {}
    return [_role(run, name, one, FROZEN_SEED) for name, one in sections.items()]


def _role(run: Run, name: str, section: TrainingSection, seed: int) -> Role:
    """Return a network of the script's kind: with its stem where the architecture has that, else its own."""
    script = run.script
    stem = stem_like(section.architecture, script.stem)
    return Role(name, section, stem, seed, run.recipe.squeeze.outputs, script.mean, script.std)


def name_network(run: Run, role: Role) -> Artefact:
    """Return one network, decided by its training or by a checkpoint's content."""
    settings = role.section.model_dump(mode="json")
    if role.section.checkpoint is not None:
        # by content and not by path: the same file elsewhere is the same network
        content = checkpoint_content(role.section.checkpoint)
        settings = {"architecture": role.section.architecture, "checkpoint": content}
    decided_by = {
        "dataset": run.dataset.digest,
        "settings": settings,
        "mean": list(role.mean),
        "std": list(role.std),
        "stem": role.stem,
        "outputs": role.outputs,
        "seed": role.seed,
    }
    return _artefact("network", decided_by | components_of(run, role).identity())


def components_of(run: Run, role: Role) -> Components:
    """Return what accelerates the training of a network: nothing that of I, which judges the images of all runs."""
    return NONE if role.name == INDEPENDENT or role.section.checkpoint is not None else run.trained_with


def checkpoint_content(checkpoint: str) -> str:
    """Return what identifies a checkpoint's content: torchvision's name of it, or the file's sha256."""
    if checkpoint.startswith(TORCHVISION) or not (path := expand_user(checkpoint, where="checkpoint")).is_file():
        return checkpoint
    return digest_unchanged(path)


def name_networks(run: Run) -> Networks:
    """Return all networks of a run."""
    main, *others = roles_in_loop(run)
    return Networks(
        teacher=name_network(run, main),
        independent=name_network(run, role_of_independent(run)),
        others={role.name: name_network(run, role) for role in others},
        frozen={role.name: name_network(run, role) for role in roles_frozen(run)},
        labeller=None if (labeller := role_of_labeller(run)) is None else name_network(run, labeller),
    )


# Embeddings.


def name_embeddings(run: Run, network: Artefact, *, split: SplitName = "train", mode: Mode = "eval") -> Artefact:
    """Return the embeddings of all images of a split in a network of ours."""
    which = run.dataset.judged if split == "test" else split
    return _artefact("embeddings", _embedded(run, which, mode), {"network": network})


def name_published_embeddings(run: Run, network: str, *, split: SplitName) -> Artefact:
    """Return the same in a published network, whose name and digest `network` is."""
    which = run.dataset.judged if split == "test" else split
    return _artefact("embeddings", {**_embedded(run, which, "eval"), "network": network})


def embeddings_of(
    run: Run, network: Artefact | Pretrained, *, split: SplitName = "train", mode: Mode = "eval"
) -> Artefact:
    """Return the artefact that `ensure_embeddings` makes."""
    if isinstance(network, Pretrained):
        return name_published_embeddings(run, f"{network.name} {network.digest}", split=split)
    return name_embeddings(run, network, split=split, mode=mode)


def _embedded(run: Run, split: str, mode: str) -> dict[str, Any]:
    return {"dataset": run.dataset.digest, "split": split, "mode": mode}


def name_real(run: Run, network: Artefact) -> Artefact:
    """Return the real rows that a term sees in a network: the embeddings themselves, or what `real` makes of them."""
    section = run.recipe.real
    embedded = name_embeddings(run, network, mode=section.mode)
    if section.per_class is None and section.order == "by_class" and section.coreset is None:
        return embedded
    settings = {"per_class": section.per_class, "order": section.order, "coreset": section.coreset}
    return _artefact("real", {**settings, "classes": run.classes}, {"embeddings": embedded})


def name_term_embeddings(run: Run, networks: Networks, inputs: Inputs) -> dict[str, Artefact]:
    """Return key of a network → the real rows that the run's terms see in it; empty without a term."""
    if not run.regularizers:
        return {}
    in_loop = embedding_networks(run, networks, inputs)
    files = {**{key: one for key, one in in_loop.items() if one is not None}, **networks.frozen}
    return {key: name_real(run, one) for key, one in files.items()}


def embedding_networks(run: Run, networks: Networks, inputs: Inputs) -> Mapping[str, Artefact | None]:
    """Return key → network of those in the loop in which terms work; the loop's own untrained one is no artefact."""
    section = run.recipe.recover.embedder
    if section is None:
        return networks.in_loop
    if section.network == EXPERT:
        return {EXPERT: inputs.expert or networks.teacher}
    return {LOOP: None} if section.network == LOOP else {MAIN: networks.teacher}


# Inputs of the loop.


@dataclass(frozen=True)
class Inputs:
    """The artefacts that the loop needs before it starts, beside the networks.

    Attributes:
        start: images to start from, real ones or RDED's; None where the script starts by itself or from noise.
        whitening: the ZCA transform of the loop's images; None where they are normalised.
        prepared: name → what upstream's own code makes before its loop.
        expert: the last snapshot of an expert, where the terms work in that.
    """

    start: Artefact | None = None
    whitening: Artefact | None = None
    prepared: Mapping[str, Artefact] = field(default_factory=dict)
    expert: Artefact | None = None

    @property
    def all(self) -> dict[str, Artefact]:
        """Role → artefact."""
        named = {"start": self.start, "whitening": self.whitening, EXPERT: self.expert}
        return {role: one for role, one in named.items() if one is not None} | dict(self.prepared)


def name_start(run: Run, networks: Networks) -> Artefact:
    """Return the images that the loop starts from: IPC of each class, real ones, or RDED's."""
    decided_by = {"dataset": run.dataset.digest, "ipc": run.recipe.ipc, "seed": run.seed}
    if run.recipe.recover.start == RDED:
        return _artefact("start", decided_by | _decide_patches(run), {MAIN: networks.teacher})
    return _artefact("start", decided_by)


def _decide_patches(run: Run) -> dict[str, Any]:
    """Return what decides RDED's images, beside the teacher that scores the patches."""
    section, ipc, size = run.recipe.rded, run.recipe.ipc, run.dataset.size
    settings = {"factor": section.factor_at(size), "num_crop": section.num_crop, "mipc": section.candidates(ipc, size)}
    return {"patches": {"revision": PATCHES_REVISION, **settings}}


def name_whitening(run: Run) -> Artefact:
    """Return the ZCA transform of the training images."""
    return _artefact("whitening", {"dataset": run.dataset.digest})


def name_pixels(split: FolderSplit) -> Artefact:
    """Return the decoded images of a split that is read on demand; its files and their size decide them."""
    seen = hashlib.sha256()
    for part in split.describe():
        seen.update(part)
    return _artefact("pixels", {"files": seen.hexdigest(), "size": split.size})


def name_inputs(run: Run, networks: Networks) -> Inputs:
    """Return what the loop needs; nothing where no loop runs."""
    if run.engine == "none":
        return Inputs()
    recover = run.recipe.recover
    whitening = name_whitening(run) if run.adapter.whitens(recover) else None
    prepared = _name_prepared(run, networks) if run.engine == "upstream" else {}
    expert = None
    if recover.embedder is not None and recover.embedder.network == EXPERT and run.regularizers:
        made_from = dict(prepared) | ({"whitening": whitening} if whitening else {})
        decided_by = {"script": recover.script, "size": run.dataset.size}
        if not prepared:
            # given experts: no preparation's key says what they are, nor of which images
            decided_by |= {"prepare": run.adapter.prepare_key(run.recipe), "dataset": run.dataset.digest}
        expert = _artefact("expert", decided_by, made_from)
    start = name_start(run, networks) if recover.is_given_a_start else None
    return Inputs(start, whitening, prepared, expert)


def _name_prepared(run: Run, networks: Networks) -> dict[str, Artefact]:
    # only names are wanted; a preparation's key must not depend on folders
    nowhere = Path("nowhere")
    found: dict[str, Artefact] = {}
    for one in run.adapter.preparations(loop_inputs(run, folder=nowhere, images=nowhere)):
        decided_by = {
            "method": run.adapter.name,
            "preparation": one.name,
            "commit": run.adapter.upstream.commit,
            "script": one.invocation.script,
            "key": dict(one.key),
            "dataset": run.dataset.digest,
        }
        found[one.name] = _artefact("prepared", decided_by, networks.in_loop if one.asks_teachers else {})
    return found


def loop_inputs(run: Run, *, folder: Path, images: Path, prepared: Mapping[str, Path] | None = None) -> LoopInputs:
    """Return what an adapter gets to know of a run.

    Args:
        folder: where the adapter writes what the script reads.
        images: what receives the images that the script saves.
        prepared: name of a preparation → its folder.
    """
    return LoopInputs(
        recipe=run.recipe,
        classes=run.classes,
        size=run.dataset.size,
        seed=run.seed,
        folder=folder.absolute(),
        images=images.absolute(),
        prepared=prepared or {},
        training_images=len(run.dataset.train),
    )


# Syntheses.


def name_synthesis(
    run: Run, networks: Networks, inputs: Inputs, embeddings: Mapping[str, Artefact], *, patch: str | None
) -> Artefact:
    """Return what all passes of a synthesis have in common; it is no entry itself.

    Args:
        embeddings: key of a network → the real rows that a term sees in it; empty without a term.
        patch: the digest of upstream's patches; None where the native engine runs.
    """
    recipe, adapter = run.recipe, run.adapter
    # a third party's term may depend on IPC, and RDED's images do, so such passes aren't shared between IPCs
    grows = adapter.grows and not _third_party(run) and recipe.recover.start != RDED
    recover = recipe.recover.model_dump(mode="json")
    decided_by: dict[str, Any] = {
        "method": adapter.name,
        "engine": run.engine,
        "commit": adapter.upstream.commit if run.engine == "upstream" else None,
        "patch": patch,
        "native": NATIVE_REVISION if run.engine == "native" else None,
        "code": plugins.code_of("methods", adapter.name),
        "recover": recover,
        "steps": adapter.steps(recipe.recover),
        "prepare": adapter.prepare_key(recipe),
        "squeeze": sorted(networks.in_loop),
        "dataset": run.dataset.digest,
        "size": run.dataset.size,
        "seed": run.seed,
        "ipc": None if grows else recipe.ipc,
    }
    decided_by |= run.components.identity()
    if seeds_batches(run):
        decided_by["seeded"] = "by batch"
    made_from: dict[str, Artefact] = {**networks.in_loop}
    made_from |= {role: one for role, one in inputs.all.items() if not (grows and role == "start")}
    if run.regularizers:
        decided_by |= {
            "terms": {name: _own(settings) for name, settings in run.regularizers.items()},
            "terms' code": {name: plugins.code_of("regularizers", name) for name in run.regularizers},
            "term": recipe.term.model_dump(mode="json"),
        }
        made_from |= {**networks.frozen, **{f"real of {key}": one for key, one in embeddings.items()}}
    return _artefact("pass", decided_by, made_from)


def name_passes(run: Run, synthesis: Artefact) -> list[Artefact]:
    """Return the passes of a synthesis in order: each decided by what its batches hold, and, where a plugin keeps
    something from pass to pass, by the pass before."""
    plan, found = run.plan, list[Artefact]()
    chained = keeps_state(run)
    for index in range(plan.passes):
        slots = [plan.slot(Slot(index, batch)) for batch in range(plan.slots_per_pass)]
        holds = digest([[list(slot.labels), list(slot.images)] for slot in slots])
        before = {"the pass before": found[-1]} if chained and found else {}
        decided_by = {**synthesis.decided_by, "pass": index, "slots": holds}
        found.append(Artefact("pass", decided_by, {**synthesis.inputs, **before}))
    return found


def shares_batches(run: Run) -> bool:
    """Return whether the batches of a pass can be made apart from each other: several, seeded by themselves, with no
    plugin that keeps something from one to the next."""
    return seeds_batches(run) and not keeps_state(run) and run.plan.slots_per_pass > 1


def name_batches(run: Run, synthesis: Artefact, index: int) -> list[Artefact]:
    """Return the batches of a pass in order, each an artefact of its own; none where they can't be made apart.

    A pass is put together from those that are there; it isn't decided by them, and is the same however it was made. How
    many a process makes enters no name, so any number of workers share them.
    """
    if not shares_batches(run):
        return []
    found = []
    for batch in range(run.plan.slots_per_pass):
        slot = run.plan.slot(Slot(index, batch))
        decided_by = {
            "synthesis": dict(synthesis.decided_by),
            "pass": index,
            "batch": batch,
            "slot": digest([list(slot.labels), list(slot.images)]),
        }
        found.append(_artefact("batch", decided_by, synthesis.inputs))
    return found


def name_recovered(
    run: Run, networks: Networks, inputs: Inputs, embeddings: Mapping[str, Artefact]
) -> tuple[Artefact, list[Artefact]]:
    """Return what a run's passes have in common, and the passes in order."""
    patch = patch_digest(patch_files(run.adapter)) if run.engine == "upstream" else None
    synthesis = name_synthesis(run, networks, inputs, embeddings, patch=patch)
    return synthesis, name_passes(run, synthesis)


def seeds_batches(run: Run) -> bool:
    """Return whether each batch of a pass is seeded by itself: where the script's slots are independent, and the plan
    isn't upstream's own, whose random numbers go on from batch to batch."""
    return run.script.slots == "independent" and run.plan.regrouped


def name_missing_batches(run: Run) -> list[Artefact]:
    """Return the batches, where they can be made apart, of the passes that the store lacks."""
    if run.engine == "none" or not shares_batches(run):
        return []
    networks = name_networks(run)
    inputs = name_inputs(run, networks)
    synthesis, passes = name_recovered(run, networks, inputs, name_term_embeddings(run, networks, inputs))
    missing = [index for index, one in enumerate(passes) if not run.store.has(one)]
    return [one for index in missing for one in name_batches(run, synthesis, index)]


def keeps_state(run: Run) -> bool:
    """Return whether a plugin may keep something from pass to pass: the bank, or a third-party term."""
    return bool(run.regularizers) and (run.recipe.recover.bank or _third_party(run))


def _third_party(run: Run) -> bool:
    """Return whether a term isn't ours: it may depend on IPC, and keep anything."""
    return any(not plugins.is_built_in("regularizers", name) for name in run.regularizers)


def name_images(passes: list[Artefact]) -> Artefact:
    """Return the images of a synthesis, gathered: a list of passes."""
    return _artefact("images", {}, {f"pass {index:04d}": one for index, one in enumerate(passes)})


def name_subset(run: Run, networks: Networks) -> Artefact:
    """Return the real images that an arm has instead of synthesized ones."""
    decided_by = {
        "arm": run.arm,
        "ipc": run.recipe.ipc,
        "seed": run.seed if run.arm in ("random", "k-means", RDED) else None,
        "dataset": run.dataset.digest,
        "file": str(run.adapter.image_path(0, 0)),
        "suffix": run.script.suffix,
    }
    if run.arm == RDED:
        return _artefact("subset", decided_by | _decide_patches(run), {MAIN: networks.teacher})
    made_from = {"embeddings": name_embeddings(run, networks.teacher)} if run.arm in CHOSEN else {}
    return _artefact("subset", decided_by, made_from)


def name_source(run: Run, networks: Networks, inputs: Inputs, embeddings: Mapping[str, Artefact]) -> Source:
    """Return the identity of a run's images, before they are made."""
    if run.arm == FULL and run.engine == "none":
        return Source(digest=FULL)
    if run.engine == "none":
        return Source({"subset": name_subset(run, networks)})
    return Source({"images": name_images(name_recovered(run, networks, inputs, embeddings)[1])})


def _own(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return a regularizer's settings without a weight that leaves its term as it is."""
    return {key: value for key, value in settings.items() if (key, value) != (WEIGHT, PLAIN)}


# Students and metrics, of images of a run or from outside.


@dataclass(frozen=True)
class Source:
    """The identity of a set of images: the artefacts that hold it, or, from outside the store, a digest.

    Attributes:
        artefacts: role → artefact.
        digest: JSON-like; None where there are artefacts.
    """

    artefacts: Mapping[str, Artefact] = field(default_factory=dict)
    digest: Any = None


def name_student(
    run: Run, networks: Networks, source: Source, section: EvaluateSection, *, architecture: str, k: int
) -> Artefact:
    """Return the accuracy of one student of a set of images."""
    decided_by: dict[str, Any] = {
        "architecture": architecture,
        "k": k,
        "seed": derive(run.seed, "student", k),
        "run's seed": run.seed,
        "settings": section.model_dump(mode="json", exclude=_PER_STUDENT),
        "dataset": run.dataset.digest,
        "images": source.digest,
    }
    decided_by |= run.trained_with.identity()
    return _artefact("student", decided_by, {**networks.labelling(section.protocol), **source.artefacts})


def name_students(run: Run, networks: Networks, source: Source, section: EvaluateSection) -> dict[str, list[Artefact]]:
    """Return architecture → its students, in the order of the recipe."""
    return {
        architecture: [
            name_student(run, networks, source, section, architecture=architecture, k=k)
            for k in range(section.per_synthesis)
        ]
        for architecture in section.students
    }


def name_labels(run: Run, networks: Networks, source: Source, section: EvaluateSection) -> Artefact:
    """Return the stored labels that all students of a set of images share, whatever their architecture."""
    decided_by = {
        "settings": section.model_dump(mode="json", exclude=_NOT_OF_LABELS),
        "seed": run.seed,
        "images": source.digest,
        **run.trained_with.identity(),
    }
    return _artefact("labels", decided_by, {**networks.labelling(section.protocol), **source.artefacts})


def name_radii(run: Run, embedded: Artefact) -> Artefact:
    """Return the radii of the real neighbourhoods in one network."""
    return _artefact("radii", {"nearest_k": run.recipe.measure.nearest_k}, {"embeddings": embedded})


def name_reference(run: Run, embedded: Artefact, held_out: Artefact, *, per_class: int) -> Artefact:
    """Return what as many real test images score."""
    settings = {"nearest_k": run.recipe.measure.nearest_k, "per_class": per_class, "draws": DRAWS}
    return _artefact("reference", settings, {"embeddings": embedded, "held out": held_out})


def name_diversity(run: Run, embedded: Artefact, held_out: Artefact, source: Source) -> Artefact:
    """Return the diversity of a set of images in one network."""
    settings = {"nearest_k": run.recipe.measure.nearest_k, "draws": DRAWS, "images": source.digest}
    settings |= {"source": run.recipe.evaluate.source}
    if source.digest == FULL:
        # the set is the same at each IPC, and the real images beside it aren't
        settings |= {"per_class": run.recipe.ipc}
    return _artefact("diversity", settings, {"embeddings": embedded, "held out": held_out, **source.artefacts})


def name_measured(run: Run, network: Artefact | Pretrained, source: Source) -> Artefact:
    """Return the artefact of a set's diversity in one network."""
    return name_diversity(run, embeddings_of(run, network), embeddings_of(run, network, split="test"), source)


def name_collapse(run: Run, networks: Networks, source: Source) -> Artefact:
    """Return the report on whether a synthesis collapsed."""
    made_from = {MAIN: networks.teacher, INDEPENDENT: networks.independent, **source.artefacts}
    return _artefact("collapse", {"source": run.recipe.evaluate.source, "dataset": run.dataset.digest}, made_from)
