"""Squeeze: train or load the teacher T, and the independent network I in which the images are judged too.

The seeds of both are fixed (0 and 1), not the run's: runs of all seeds and arms share one teacher, so that what
differs between them is the synthesis.
"""

from __future__ import annotations

import pickle
import shutil
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor
from torch.hub import download_url_to_file
from torch.nn import functional as F
from torch.optim import Optimizer

from dire_plug import home, ui
from dire_plug.acceleration import accelerate_network
from dire_plug.data.augmentation.draws import to_device
from dire_plug.data.reading import read_batches
from dire_plug.errors import DirePlugError, nearest
from dire_plug.files import digest_file, expand_user, make_folder, read_json, write_json
from dire_plug.models import build
from dire_plug.models.architectures import TORCHVISION, is_made_for_a_size, size_of, torchvision_name
from dire_plug.models.checkpoint import Network, read_foreign, save
from dire_plug.stages.artefacts import (
    MAIN,
    Networks,
    Role,
    components_of,
    name_network,
    name_networks,
    role_of_independent,
    roles_frozen,
    roles_in_loop,
    roles_of_students,
)
from dire_plug.store.runs import Run
from dire_plug.training.loop import Training, initialised, shuffled, train
from dire_plug.training.students import predict
from dire_plug.training.transforms import plain_batches, train_transform
from dire_plug.types.artefact import Artefact

# Checkpoints: a file, or torchvision's published weights.


IMAGENET_OUTPUTS = 1000


def check_checkpoints(run: Run) -> None:
    """Raise where a network's `checkpoint` can't serve, before any other network is trained.

    Raises:
        DirePlugError: see `read_weights`; what torchvision publishes isn't fetched yet.
    """
    for role in (*roles_of_students(run), *roles_frozen(run), role_of_independent(run)):
        if role.section.checkpoint is None or run.store.find(name_network(run, role)) is not None:
            continue
        if role.section.checkpoint.startswith(TORCHVISION):
            _find_published(role, offline=run.request.offline)
        else:
            read_weights(role, offline=run.request.offline)


def read_weights(role: Role, *, offline: bool) -> dict[str, Tensor]:
    """Return the weights that a network's `checkpoint`, a file or `torchvision:<weights>`, names.

    What torchvision publishes is fetched once, into the downloads of the home folder.

    Raises:
        DirePlugError: there is no such file or weights, they don't fit the network, or they can't be fetched.
    """
    checkpoint = str(role.section.checkpoint)
    if checkpoint.startswith(TORCHVISION):
        url = _find_published(role, offline=offline)
        return _read_published(_fetch(checkpoint, url), url)
    path = expand_user(checkpoint, where="checkpoint")
    if not path.is_file():
        raise DirePlugError(f"checkpoint: {path.absolute()} is not a file; correct the path, or leave it out to train")
    return read_foreign(path, architecture=role.section.architecture, outputs=role.outputs, stem=role.stem)


def _find_published(role: Role, *, offline: bool) -> str:
    """Return the address of the weights that torchvision publishes for a network."""
    checkpoint, outputs, stem = str(role.section.checkpoint), role.outputs, role.stem
    # torchvision's weights have one shape; a head or stem of another can't take them
    if outputs != IMAGENET_OUTPUTS or stem != "imagenet":
        raise DirePlugError(
            f"checkpoint: {checkpoint} has {IMAGENET_OUTPUTS} outputs and the imagenet stem, "
            f"the network here {outputs} and the {stem} stem; train one, or name a file"
        )
    url: str = _find(checkpoint.removeprefix(TORCHVISION), role.section.architecture).url
    if offline and not (path := _place(url)).is_file():
        raise DirePlugError(
            f"checkpoint: {checkpoint} is not in {path}, and --offline forbids to fetch it; "
            f"get {url} and put it there, run once without --offline, or name a file"
        )
    return url


def _place(url: str) -> Path:
    return home.downloads() / "torchvision" / url.rpartition("/")[2]


def _find(name: str, architecture: str) -> Any:
    """Return torchvision's own entry of weights, by the name that it gives them."""
    from torchvision.models import get_model_weights

    try:
        weights = get_model_weights(torchvision_name(architecture) or architecture)
    except ValueError as error:
        raise DirePlugError(f"checkpoint: torchvision publishes no weights of {architecture}; name a file") from error
    known = list(weights.__members__)
    if name not in known:
        raise DirePlugError(
            f"checkpoint: torchvision has no weights '{name}' of {architecture}{nearest(name, known)}; "
            f"one of {', '.join(known)}"
        )
    return weights[name]


def _fetch(checkpoint: str, url: str) -> Path:
    """Return the file of `url` among the downloads; fetch it where it isn't there."""
    path = _place(url)
    if path.is_file():
        return path
    make_folder(path.parent)
    ui.say(f"squeeze: fetching {url} to {path}")
    try:
        download_url_to_file(url, str(path), hash_prefix=_digest_in(url), progress=sys.stderr.isatty())
    except (OSError, RuntimeError) as error:
        raise DirePlugError(
            f"checkpoint: {checkpoint} cannot be fetched ({error}); get {url} and put it to {path}, or name a file"
        ) from error
    return path


def _read_published(path: Path, url: str) -> dict[str, Tensor]:
    """Read a file that torchvision publishes, after checking its digest: the user may have put it there."""
    if not digest_file(path).startswith(_digest_in(url)):
        raise DirePlugError(f"{path}: is not the file of {url}, whose name holds its sha256; remove it or get it again")
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except (OSError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        raise DirePlugError(f"{path}: cannot be read as weights ({error}); remove it to fetch it again") from error


def _digest_in(url: str) -> str:
    """Return the first hex digits of the sha256, which torchvision puts into file names: resnet18-f37072fd.pth."""
    return url.rpartition("-")[2].partition(".")[0]


FILE = "network.safetensors"
FACTS = "network.json"


def squeeze(run: Run) -> Networks:
    """Return all networks of a run, trained or loaded as the recipe says, or found in the store.

    Raises:
        DirePlugError: the head is narrower than the dataset's classes, a checkpoint doesn't fit, a training diverged.
    """
    for role in all_roles(run):
        ensure_network(run, role)
    return name_networks(run)


def squeeze_loop(run: Run) -> Networks:
    """Return the networks that students may need, made where they aren't there, and the others, which are only named.

    Raises:
        DirePlugError: see `squeeze`.
    """
    for role in roles_of_students(run):
        ensure_network(run, role)
    return name_networks(run)


def squeeze_one(run: Run, name: str) -> Artefact:
    """Return T (`teacher`) or I (`independent`) alone, as `squeeze` does.

    Raises:
        DirePlugError: see `squeeze`.
    """
    return ensure_network(run, roles_in_loop(run)[0] if name == MAIN else role_of_independent(run))


def all_roles(run: Run) -> list[Role]:
    """Return T, I, the further networks in the loop, the one that labels instead of them, and those of the terms."""
    main, *others = roles_of_students(run)
    return [main, role_of_independent(run), *others, *roles_frozen(run)]


def missing_networks(run: Run) -> list[str]:
    """Return the names of the networks that the store lacks, of all that `squeeze` returns."""
    return [role.name for role in all_roles(run) if not run.store.has(name_network(run, role))]


def network_file(run: Run, network: Artefact) -> Path:
    """Return the file of a network that was made."""
    return run.store.path(network) / FILE


def accuracy_of(run: Run, network: Artefact) -> float:
    """Return the accuracy in percent of a network that was made, on the images that judged then."""
    return float(read_json(run.store.path(network) / FACTS)["accuracy"])


def ensure_network(run: Run, role: Role) -> Artefact:
    """Return one network; train or load it where the store lacks it; say how good it is, and warn where it isn't."""
    _check_outputs(run)
    network = name_network(run, role)
    found = read_json(run.store.ensure(network, lambda folder: _make(run, role, folder)) / FACTS)
    title = f"squeeze: {role.name} ({role.section.architecture})"
    ui.say_once(f"{title} has {found['accuracy']:.2f} % {found['judged']} accuracy")
    if (problem := find_problem(run, found)) is not None:
        ui.say_once(f"{title} {problem}", say=ui.warn)
    return network


LEAST = 0.25
"""The accuracy that a network needs to teach or to judge, as a share of the way from chance to 100 %."""
SHOWN = 10
"""The most exchanged classes that a warning names."""


def find_problem(run: Run, facts: Mapping[str, Any]) -> str | None:
    """Return what makes a network unfit for its use, in words, from its network.json; None where nothing is known."""
    if exchanged := facts.get("exchanged"):
        names = run.dataset.classes
        pairs = [
            f"{names[label]} → {names[output] if output < len(names) else f'output {output}'}"
            for label, output in exchanged[:SHOWN]
        ]
        more = f", and {len(exchanged) - SHOWN} more" if len(exchanged) > SHOWN else ""
        return (
            f"has its outputs in another order than the classes of {run.dataset.name}: reordered it would have "
            f"{facts['reordered']:.2f} %. Class → the one whose output its images get: {', '.join(pairs)}{more}. "
            "Reorder the rows of its last layer, or give the classes the order that it was trained with"
        )
    chance = 100 / run.classes
    if facts["accuracy"] >= chance + LEAST * (100 - chance):
        return None
    remedy = (
        "train it longer"
        if facts["checkpoint"] is None
        else "check that the checkpoint was trained on these classes, at this size and normalisation"
    )
    return f"is too weak to teach or to judge by: guessing has {chance:.1f} %; {remedy}"


def find_exchanged(answers: Tensor, labels: Tensor) -> dict[str, Any]:
    """Return which classes' outputs are exchanged, and the accuracy in percent without that; nothing where none are.

    A class is exchanged if most of its images get the output of another, which no other class gets so. One alone is
    none, and neither are they where at most half of all images would be right without it: the network is weak then.

    Args:
        answers: the largest output of each image, [N].
        labels: [N].

    Returns:
        {"exchanged": [(class, output), …], "reordered": accuracy}, or {}.
    """
    majority, places = dict[int, int](), torch.arange(int(labels.max()) + 1)
    for label in sorted(set(labels.tolist())):
        own = answers[labels == label]
        output, count = Counter(own.tolist()).most_common(1)[0]
        if 2 * count > len(own):
            majority[label] = output
    taken = Counter(majority.values())
    exchanged = [(label, output) for label, output in majority.items() if output != label and taken[output] == 1]
    for label, output in exchanged:
        places[label] = output
    reordered = 100 * float((answers == places[labels]).sum()) / len(labels)
    return {"exchanged": exchanged, "reordered": reordered} if len(exchanged) > 1 and reordered > 50 else {}


def _check_outputs(run: Run) -> None:
    """Raise where the networks' heads are narrower than the dataset has classes.

    Raises:
        DirePlugError: it names both numbers.
    """
    # more outputs than classes are fine: a script for 100 classes also takes 10
    if (outputs := run.recipe.squeeze.outputs) < run.classes:
        raise DirePlugError(
            f"squeeze.outputs: {outputs} outputs can't tell the {run.classes} classes of {run.dataset.name} "
            f"apart; raise it to {run.classes} or take a script with as many"
        )


def _make(run: Run, role: Role, folder: Path) -> None:
    """Write network.safetensors and, last, network.json with its accuracy on the images that judge at that time."""
    network = initial_network(run, role)
    accelerate_network(network.model, components_of(run, role), run.device)
    if role.section.checkpoint is None:
        _train(run, role, network, folder / "training")
    tested = plain_batches(run.dataset.test, network, device=run.device)
    answers, labels = (one.cpu() for one in predict(network.model, tested))
    save(folder / FILE, replace(network, model=network.model.cpu()))
    facts = {
        "role": role.name,
        "architecture": role.section.architecture,
        "checkpoint": role.section.checkpoint,
        "epochs": None if role.section.checkpoint else role.section.epochs,
        "dataset": run.dataset.name,
        "accuracy": 100 * float((answers == labels).sum()) / len(labels),
        "judged": run.dataset.judged,
        **find_exchanged(answers, labels),
    }
    # after the weights: what has the facts has both
    write_json(folder / FACTS, facts)
    shutil.rmtree(folder / "training", ignore_errors=True)


def write_untrained(run: Run) -> Networks:
    """Put all networks but I into the run's store with seeded initial weights: for a temporary store.

    A step in them takes as long as in trained ones, so that a loop can be timed.
    """

    def write(role: Role, folder: Path) -> None:
        network = initial_network(run, replace(role, section=role.section.model_copy(update={"checkpoint": None})))
        save(folder / FILE, replace(network, model=network.model.cpu()))

    for role in (*roles_in_loop(run), *roles_frozen(run)):
        run.store.ensure(name_network(run, role), partial(write, role))
    return name_networks(run)


def initial_network(run: Run, role: Role) -> Network:
    """Return the network on the run's device, with the weights of the checkpoint or with seeded initial ones.

    A ConvNet trained here reads its last map as `head` says; a transformer is made for the dataset's size.
    """
    architecture, outputs, stem = role.section.architecture, role.outputs, role.stem
    if role.section.checkpoint is None:
        sized = role.section.head == "flat" or is_made_for_a_size(architecture)
        size = run.dataset.size if sized else None
        model = initialised(lambda: build(architecture, outputs=outputs, stem=stem, size=size), role.seed)
    else:
        state = read_weights(role, offline=run.request.offline)
        model = build(architecture, outputs=outputs, stem=stem, size=size_of(architecture, state))
        model.load_state_dict(state)
    return Network(model.to(run.device), architecture, outputs, stem, role.mean, role.std)


def _train(run: Run, role: Role, network: Network, folder: Path) -> None:
    """Train in place by cross-entropy on the training images."""
    section, split, model = role.section, run.dataset.train, network.model
    transform = train_transform(network, augmentation=section.augmentation, padding=section.padding)

    def run_epoch(epoch: int, optimiser: Optimizer, generator: Generator) -> tuple[Tensor, None]:
        model.train()
        losses = []
        order = list(shuffled(len(split), section.batch_size, generator))
        # of all batches before the first step: what a step copies to the device makes the host wait for it
        drawn = [transform.draw((len(batch), 3, run.dataset.size, run.dataset.size), generator) for batch in order]
        batches = read_batches(split, order, device=run.device)
        for (images, labels), augmented in zip(batches, to_device(drawn, run.device), strict=True):
            loss = F.cross_entropy(model(transform.apply(images, augmented)), labels)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            # on the device: `.item()` would wait for each step
            losses.append(loss.detach())
        return torch.stack(losses).mean(), None

    training = Training(
        epochs=section.epochs,
        lr=section.lr,
        weight_decay=section.weight_decay,
        seed=role.seed,
        momentum=section.momentum,
        warmup_epochs=section.warmup_epochs,
        schedule=section.schedule,
    )
    with ui.progress(f"squeeze: {role.name} ({section.architecture})", section.epochs) as advance:
        train(model, run_epoch, training, folder=folder, progress=advance)
