"""`verify` of patches and of a bridge that are wrong: each is found, by the check that is named here."""

import functools
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from support import third_party_plugin
from support.cli import Cli
from support.loop_upstream import (
    BY_HAND,
    COMMITTEE,
    COMMITTEE_INSERTIONS,
    INSERTIONS,
    UNNAMED,
    UNNAMED_INSERTIONS,
    LoopAdapter,
    make_loop,
    make_loop_known,
    run_here,
    write_patch,
)
from support.mutants import Change, double_rates, move_more, take_other_rows
from support.scaffolds import VALUES, fill, forget, install_package
from support.third_party_plugin import ThirdParty
from support.upstreams import vendor_or_skip

from dire_plug import bridge
from dire_plug.errors import DirePlugError
from dire_plug.methods.dwa import DWA
from dire_plug.plugins import load_adapter
from dire_plug.scaffold.package import Published, new_method
from dire_plug.synthesis import running
from dire_plug.synthesis.embeddings import Embeddings, PenultimateHook
from dire_plug.synthesis.terms import LateTerms, Terms
from dire_plug.types import LoopInputs, ScriptInputs
from dire_plug.upstream.source.patching import make_patch, read_patch
from dire_plug.upstream.source.vendor import require_vendored, unpatched_copy, vendor
from dire_plug.upstream.verify.verify import ScriptVerdict, verify


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> LoopAdapter:
    """The loop, published."""
    return make_loop(tmp_path_factory.mktemp("loop"))


@pytest.fixture(scope="module")
def unnamed_adapter(tmp_path_factory: pytest.TempPathFactory) -> LoopAdapter:
    """The loop whose loss has no name, published."""
    return make_loop(tmp_path_factory.mktemp("unnamed"), UNNAMED)


@pytest.fixture(scope="module")
def committee_adapter(tmp_path_factory: pytest.TempPathFactory) -> LoopAdapter:
    """The loop of several networks, published."""
    return make_loop(tmp_path_factory.mktemp("committee"), COMMITTEE)


@pytest.fixture
def verify_patch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ScriptVerdict]:
    """Return a function that verifies a patch of a loop in this process."""
    monkeypatch.setenv("DIRE_PLUG_HOME", str(tmp_path / "home"))
    make_loop_known(tmp_path / "known")
    monkeypatch.syspath_prepend(str(tmp_path / "known"))

    def call(loop: LoopAdapter, insertions: Mapping[int, Sequence[str]]) -> ScriptVerdict:
        write_patch(loop, insertions)
        vendor(loop)
        (verdict,) = verify(loop, workdir=tmp_path / "work", run=run_here)
        return verdict

    return call


@pytest.fixture
def verified(
    adapter: LoopAdapter, unnamed_adapter: LoopAdapter, verify_patch: Callable[..., ScriptVerdict]
) -> Callable[..., ScriptVerdict]:
    """Return a function that verifies a patch; of the loop whose loss has a name, or none."""
    return lambda insertions, *, named=True: verify_patch(adapter if named else unnamed_adapter, insertions)


@pytest.fixture
def committee(
    committee_adapter: LoopAdapter, verify_patch: Callable[..., ScriptVerdict]
) -> Callable[..., ScriptVerdict]:
    """Return a function that verifies a patch of the loop of several networks."""
    return functools.partial(verify_patch, committee_adapter)


def test_a_patch_that_is_right_passes_every_check(verified: Any) -> None:
    verdict = verified(INSERTIONS)
    assert verdict.problems == {}
    assert verdict.holds
    assert verdict.agreement < 1e-5
    assert verdict.answers == ("start", "plan", "names")
    assert verdict.cut == "resumes, batches apart"
    assert (verdict.steps, verdict.files) == (4, 4)


def test_a_network_that_got_a_part_of_the_teachers_weights_is_found(
    verified: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_part(self: LoopAdapter, inputs: LoopInputs, script_inputs: ScriptInputs) -> None:
        write_inputs(self, inputs, script_inputs)
        weights = torch.load(path := inputs.folder / "weights.pt")
        torch.save(weights | {"3.bias": weights["3.bias"] + 1}, path)

    write_inputs = LoopAdapter.write_inputs
    monkeypatch.setattr(LoopAdapter, "write_inputs", write_part)
    (problem, *_) = verified(INSERTIONS).problems["calls"]
    assert problem.startswith("bridge.watch: 1 of 4 parameters of the network aren't the teacher's, the first 3.bias: ")


def change_line(call: str, old: str, new: str) -> dict[int, list[str]]:
    """Return the lines of the right patch of the committee's loop, with one of them changed."""
    return {
        place: [text.replace(old, new) if f"bridge.{call}(" in text else text for text in texts]
        for place, texts in COMMITTEE_INSERTIONS.items()
    }


def test_a_patch_of_several_networks_in_a_step_passes_every_check(committee: Any) -> None:
    verdict = committee(COMMITTEE_INSERTIONS)
    assert verdict.problems == {}
    assert verdict.agreement < 1e-5


@pytest.mark.parametrize("rule", BY_HAND)
@pytest.mark.parametrize("change", [None, "sign flipped in bridge.loss"])
def test_an_update_rule_of_the_scripts_own_is_followed(
    rule: str, change: str | None, tmp_path: Path, verify_patch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if change is not None:
        BRIDGES[change](monkeypatch)
    verdict = verify_patch(make_loop(tmp_path / "loop", BY_HAND[rule]), INSERTIONS)
    assert list(verdict.problems) == ([] if change is None else ["gradient"])
    assert verdict.steps == 4
    assert "the optimiser's update, since it isn't one of torch.optim" in verdict.unseen


def test_an_update_rule_that_the_adapter_does_not_name_is_asked_for(tmp_path: Path, verify_patch: Any) -> None:
    loop = make_loop(tmp_path / "loop", BY_HAND["in place"])
    loop.scripts = LoopAdapter.scripts
    with pytest.raises(DirePlugError, match=r"did 0 steps and saved 4 files; .* name its variables in .*optimized"):
        verify_patch(loop, INSERTIONS)


def test_a_term_in_one_of_several_networks_alone_is_found(committee: Any) -> None:
    verdict = committee(change_line("loss", "network=networks", "network=network"))
    assert "isn't that of the loss handed to bridge.loss plus" in verdict.problems["gradient"][-1]


def test_networks_that_are_handed_over_under_each_others_names_are_found(committee: Any) -> None:
    # without names they count as in the recipe's order, which isn't the script's
    verdict = committee(change_line("watch", ", names=names", ""))
    assert list(verdict.problems) == ["gradient"]


def test_names_of_other_networks_than_the_adapters_are_refused(committee: Any) -> None:
    with pytest.raises(DirePlugError, match=r"calls 'Third', but of the recipe's networks .* has First, Second"):
        committee(change_line("watch", "names=names", "names=unknown"))


def moved(call: str, after: int, *, indent: int = 8) -> dict[int, list[str]]:
    """Return the lines of the right patch with one call taken out of its place, and put elsewhere; 0 leaves it out."""
    lines = {place: [line for line in texts if f"bridge.{call}(" not in line] for place, texts in INSERTIONS.items()}
    (text,) = (line.strip() for texts in INSERTIONS.values() for line in texts if f"bridge.{call}(" in line)
    if after:
        lines.setdefault(after, []).append(" " * indent + text)
    return {place: texts for place, texts in lines.items() if texts}


def with_images(name: str) -> dict[int, list[str]]:
    """Return the lines of the right patch with another tensor handed over as the images of a step."""
    return {
        place: [text.replace("images=images", f"images={name}") for text in texts]
        for place, texts in INSERTIONS.items()
    }


PATCHES = {
    "start after the optimiser": (moved("start", 22, indent=4), "calls", "bridge.start comes after an optimiser was"),
    "start after the optimiser, answered": (moved("start", 22, indent=4), "answered", "stay where bridge.start put"),
    "start after the first step": (moved("start", 30), "calls", "bridge.start is called 2 times"),
    "no start": (moved("start", 0), "calls", "bridge.start is never called"),
    "no image_index": (moved("image_index", 0), "answered", "4 of 8 images aren't saved under their number"),
    "image_index after the name": (moved("image_index", 32), "answered", "images aren't saved under their number"),
    "no step_done": (moved("step_done", 0), "calls", "bridge.step_done is never called"),
    "step_done before backward": (moved("step_done", 27), "calls", "step_done comes before the optimiser's step"),
    "step_done before the clipping": (moved("step_done", 29), "calls", "has changed since bridge.step_done"),
    "images are another tensor": (with_images("moved"), "calls", "`images` isn't what the optimiser holds"),
    "loss before a part is added": (moved("loss", 25), "gradient", "isn't that of the loss handed to bridge.loss plus"),
    "loss after backward": (moved("loss", 28), "gradient", "bridge.loss had no loss with its graph"),
    "no loss": (moved("loss", 0), "calls", "bridge.loss is never called"),
    "no steps": (moved("steps", 0), "calls", "bridge.steps is never called, although"),
    "steps after the first step": (moved("steps", 24), "calls", "bridge.steps is called 2 times"),
}
"""Mutant → its patch, the check that finds it, and what that says."""


@pytest.mark.parametrize(("insertions", "check", "says"), PATCHES.values(), ids=PATCHES)
def test_a_patch_that_is_wrong_is_found(verified: Any, insertions: Any, check: str, says: str) -> None:
    verdict = verified(insertions)
    assert not verdict.holds
    assert "inert" not in verdict.problems
    assert any(says in problem for problem in verdict.problems[check]), verdict.problems


def change_sum(change: Callable[[Any, Any, int], Any]) -> Change:
    """Return what makes `bridge.loss` return `change(loss, term, step)` where there is a term."""

    def apply(patch: pytest.MonkeyPatch) -> None:
        right = bridge.loss

        @functools.wraps(right)
        def wrong(loss: Any, **arguments: Any) -> Any:
            total = right(loss, **arguments)
            return total if total is loss else change(loss, total - loss, arguments["step"])

        patch.setattr(bridge, "loss", wrong)

    return apply


def flip_in_synthesis(patch: pytest.MonkeyPatch) -> None:
    """Make the synthesis take terms off the loss."""
    right = Terms.add

    def wrong(self: Terms, loss: Any, seen: Any, **options: Any) -> Any:
        total, added = right(self, loss, seen, **options)
        return (total if total is loss else loss - (total - loss)), added

    patch.setattr(Terms, "add", wrong)


def change_embeddings(change: Callable[[Any], Any]) -> Change:
    """Return what changes the embeddings that terms see."""

    def apply(patch: pytest.MonkeyPatch) -> None:
        right = PenultimateHook.take
        patch.setattr(PenultimateHook, "take", lambda self: change(right(self)))

    return apply


def roll_labels(patch: pytest.MonkeyPatch) -> None:
    """Make the synthesis take each row's label from the row before."""
    right = Embeddings.embed

    def wrong(self: Embeddings, images: Any, part: Any, labels: Any, **more: Any) -> Any:
        return right(self, images, part, labels.roll(1), **more)

    patch.setattr(Embeddings, "embed", wrong)


BRIDGES: dict[str, Change] = {
    "sign flipped in bridge.loss": change_sum(lambda loss, term, step: loss - term),
    "sign flipped in the synthesis": flip_in_synthesis,
    "times 100": change_sum(lambda loss, term, step: loss + 100 * term),
    "in step 0 only": change_sum(lambda loss, term, step: loss + term if step == 0 else loss),
    "in place of upstream's loss": change_sum(lambda loss, term, step: term),
    "in value only": change_sum(lambda loss, term, step: loss + term.detach()),
    "embeddings all the first row's": change_embeddings(lambda kept: kept[:1].expand(len(kept), -1)),
    "embeddings rolled by one row": change_embeddings(lambda kept: kept.roll(1, 0)),
    "labels rolled by one row": roll_labels,
}
"""Mutants of the bridge and what it forwards to, under the right patch: the gradient shows each."""


@pytest.mark.parametrize("change", BRIDGES.values(), ids=BRIDGES)
def test_a_bridge_that_is_wrong_is_found(verified: Any, change: Change, monkeypatch: pytest.MonkeyPatch) -> None:
    change(monkeypatch)
    verdict = verified(INSERTIONS)
    assert not verdict.holds
    assert list(verdict.problems) == ["gradient"]
    compared, handed = (
        [problem for problem in verdict.problems["gradient"] if says in problem]
        for says in ("patched minus unpatched", "the loss handed to bridge.loss")
    )
    assert compared
    assert handed


@pytest.mark.parametrize(
    ("change", "check", "says"),
    [
        (double_rates, "step", "with the term the optimiser has other settings: lr 0.1 → 0.2"),
        (move_more, "step", "of its size away from the optimiser's own, of the recorded gradient"),
        (take_other_rows, "gradient", "patched minus unpatched"),
    ],
)
def test_what_acts_beside_the_term_is_found(
    verified: Any, change: Change, check: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(monkeypatch)
    problems = verified(INSERTIONS).problems
    assert list(problems) == [check]
    assert says in problems[check][0]


# A loss without a name.


def test_a_patch_with_the_term_alone_passes_every_check(verified: Any) -> None:
    verdict = verified(UNNAMED_INSERTIONS, named=False)
    assert verdict.problems == {}
    assert verdict.agreement < 1e-5
    assert verdict.cut == "resumes, batches apart"


def with_term(*places: int, line: str = "bridge.term(images=images, labels=labels, step=step)") -> dict[int, list[str]]:
    """Return the lines of the right patch with the term after these lines instead."""
    lines = {place: list(texts) for place, texts in UNNAMED_INSERTIONS.items() if place != 26}
    for place in places:
        lines.setdefault(place, []).append(" " * 8 + line)
    return dict(sorted(lines.items()))


@pytest.mark.parametrize(
    ("insertions", "says"),
    [
        (with_term(26, 27), "no gradient has reached `images` between bridge.term and the next bridge.term"),
        (with_term(28), "bridge.term stands after `backward`"),
        (with_term(24), "made no forward pass in this step"),
        (with_term(26, line="bridge.term(images=moved, labels=labels, step=step)"), ""),
    ],
    ids=["twice", "after backward", "before the forward pass", "images are another tensor"],
)
def test_a_term_out_of_its_place_is_found(verified: Any, insertions: Any, says: str) -> None:
    if says:
        with pytest.raises(DirePlugError, match=says.replace(".", r"\.")):
            verified(insertions, named=False)
    else:
        problems = verified(insertions, named=False).problems["calls"]
        assert any("bridge.term: `images` isn't what the optimiser holds" in one for one in problems), problems


def change_late(change: Callable[[Any, Any], Any]) -> Change:
    """Return what makes the synthesis return `change(gradient, term)` where the script's gradient comes."""

    def apply(patch: pytest.MonkeyPatch) -> None:
        right = LateTerms.receive

        def wrong(self: LateTerms, place: int, gradient: Any) -> Any:
            return change(gradient, right(self, place, gradient) - gradient)

        patch.setattr(LateTerms, "receive", wrong)

    return apply


@pytest.mark.parametrize(
    "change",
    [
        change_late(lambda gradient, term: gradient - term),
        change_late(lambda gradient, term: gradient + 100 * term),
        change_late(lambda gradient, term: term),
        change_late(lambda gradient, term: gradient),
        change_embeddings(lambda kept: kept.roll(1, 0)),
        roll_labels,
    ],
    ids=["sign flipped", "times 100", "in place of the loss's", "left out", "embeddings rolled", "labels rolled"],
)
def test_a_term_that_acts_wrongly_is_found(verified: Any, change: Change, monkeypatch: pytest.MonkeyPatch) -> None:
    change(monkeypatch)
    verdict = verified(UNNAMED_INSERTIONS, named=False)
    assert list(verdict.problems) == ["gradient"]
    for says in ("patched minus unpatched", "isn't that of the script's loss plus"):
        assert any(says in problem for problem in verdict.problems["gradient"]), verdict.problems


def change_network(patch: pytest.MonkeyPatch) -> None:
    """Let each step change the network, as a script does whose slots aren't independent."""
    watched: list[Any] = []
    watch, step_done = bridge.watch, bridge.step_done

    @functools.wraps(watch)
    def watching(network: Any) -> None:
        watched.append(network)
        watch(network)

    @functools.wraps(step_done)
    def changing(loss: Any, **arguments: Any) -> None:
        step_done(loss, **arguments)
        with torch.no_grad():
            for weight in watched[-1].parameters():
                weight.mul_(1.1)

    patch.setattr(bridge, "watch", watching)
    patch.setattr(bridge, "step_done", changing)


RESUMED, ALONE = "after a run that ended within its second slot, step", "batch 1 of the answered run, made alone: step"
CUTS: dict[str, tuple[Change, tuple[str, ...]]] = {
    "random state not put back": (
        lambda patch: patch.setattr(running, "put_back_random_state", lambda state, device: None),
        (RESUMED,),
    ),
    "batches not seeded": (
        lambda patch: patch.setattr(running, "seed_everything", lambda seed, pass_index, *, batch: None),
        (ALONE,),
    ),
    "a network that changes": (change_network, (RESUMED, ALONE)),
}
"""Mutants of what lets a run resume → the change, and what the cut says."""


@pytest.mark.parametrize(("change", "says"), CUTS.values(), ids=CUTS)
def test_a_cut_shows_what_goes_from_slot_to_slot(
    verified: Any, change: Change, says: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    change(monkeypatch)
    problems = verified(INSERTIONS).problems["cut"]
    assert len(problems) == len(says)
    assert all(problem.startswith(start) for problem, start in zip(problems, says, strict=True)), problems


# A third-party method, as `new method` and `patch insert` make it.

INSERTED = {
    "watch": (21, "bridge.watch(network)"),
    "labels": (22, "labels = bridge.labels(labels)"),
    "start": (23, "images = bridge.start(images, labels)"),
    "loss": (27, "cost = bridge.loss(cost, images=images, labels=labels, step=step)"),
    "step_done": (31, "bridge.step_done(cost, images=images, labels=labels, step=step)"),
    "image_index": (32, "number = bridge.image_index(number, place)"),
}
"""Function → the line of the toy's script after which its call belongs, and the call."""


@pytest.fixture
def inserted(
    cli: Cli, made_third_party: ThirdParty, bare_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[dict[str, int]], ScriptVerdict]:
    """Return a function that inserts the toy's calls at other places than the right ones, and verifies."""

    def call(places: dict[str, int]) -> ScriptVerdict:
        name = f"verify-{'-'.join(places).replace('_', '-') or 'right'}-toy"
        origin = Published(str(made_third_party.repository), made_third_party.commit, third_party_plugin.SCRIPT)
        folder = new_method(name, origin, into=tmp_path).folder
        for function, (right, line) in INSERTED.items():
            if place := places.get(function, right):
                where = ("patch", "insert", name, f"{third_party_plugin.SCRIPT}:{place}", line, "--package", folder)
                assert cli(*where).code == 0
        install_package(folder, monkeypatch)
        file = fill(folder, VALUES)
        left = tuple(function for function in INSERTED if places.get(function, 1))
        file.write_text(re.sub(r"    calls = .*", f"    calls = {left}", file.read_text()))
        recipe = next(folder.glob("*/recipes/quick.yaml"))
        recipe.write_text(recipe.read_text().replace("flags: {}", "flags: {steps: 1, lr: 0.1}"))
        forget(folder)
        adapter = load_adapter(name)
        vendor(adapter)
        (verdict,) = verify(adapter, workdir=tmp_path / "work", run=run_here)
        return verdict

    return call


@pytest.mark.slow
@pytest.mark.parametrize(
    ("places", "found"),
    [
        ({}, {}),
        (
            {"start": 24},
            {
                "calls": "batch 0: bridge.start comes after an optimiser was made for the images",
                "answered": "batch 0: 20 images stay where bridge.start put them",
            },
        ),
        ({"image_index": 0}, {"answered": "10 of 20 images aren't saved under their number, such as 0-1.png"}),
    ],
)
def test_what_patch_insert_made_is_checked_too(
    inserted: Callable[[dict[str, int]], ScriptVerdict], places: dict[str, int], found: dict[str, str]
) -> None:
    verdict = inserted(places)
    assert verdict.holds is (not found)
    for check, says in found.items():
        assert says in verdict.problems[check]


# A published script.


class MovedDWA(DWA):
    """DWA with another patch of its CIFAR script than the one that ships."""

    folder: Path

    def patches(self) -> Path:
        """Return the folder of the patch."""
        return self.folder


@pytest.fixture
def moved_dwa(bare_home: Path, tmp_path: Path) -> Callable[[str, int, int], MovedDWA]:
    """Return a function that moves what stands after one line of DWA's CIFAR script behind another; 0 leaves it out."""

    def call(call_of: str, before: int, after: int) -> MovedDWA:
        vendor_or_skip(DWA())
        source, target = DWA().patches(), tmp_path / "patches"
        shutil.copytree(source, target)
        patch = read_patch(source / "bridge.patch")
        places = {file.path: {hunk.after: list(hunk.inserted) for hunk in file.hunks} for file in patch.files}
        (path,) = (name for name, lines in places.items() if call_of in "".join(lines.get(before, [])))
        lines = places[path].pop(before)
        if after:
            places[path][after] = lines
        places = {name: found for name, found in places.items() if found}
        published = unpatched_copy(DWA(), require_vendored(DWA()), tmp_path / "published")
        contents = {name: (published / name).read_bytes() for name in places}
        (target / "bridge.patch").write_text(make_patch(contents, places, commit=patch.commit))
        adapter = MovedDWA()
        adapter.folder = target
        vendor(adapter)
        return adapter

    return call


@pytest.mark.slow
@pytest.mark.upstream
@pytest.mark.every_script
@pytest.mark.parametrize(
    ("moved_line", "check", "says"),
    [
        (("bridge.start", 38, 43), "answered", "batch 0: 4 images stay where bridge.start put them"),
        (("bridge.start", 38, 0), "calls", "bridge.start is never called"),
        (("bridge.image_index", 98, 0), "answered", "2 of 4 images aren't saved under their number"),
        (
            ("bridge.step_done", 114, 109),
            "calls",
            "batch 0: step 0: bridge.step_done comes before the optimiser's step",
        ),
    ],
)
def test_a_wrong_patch_of_dwa_is_found(
    moved_dwa: Callable[[str, int, int], MovedDWA],
    moved_line: tuple[str, int, int],
    check: str,
    says: str,
    tmp_path: Path,
) -> None:
    (verdict,) = verify(moved_dwa(*moved_line), scripts=["cifar-100"], workdir=tmp_path / "work", run=run_here)
    assert "inert" not in verdict.problems
    assert any(says in problem for problem in verdict.problems[check]), verdict.problems


@pytest.mark.slow
@pytest.mark.upstream
@pytest.mark.every_script
@pytest.mark.parametrize("name", ["sign flipped in bridge.loss", "embeddings rolled by one row", "in step 0 only"])
def test_dwa_under_a_wrong_bridge_is_found(
    name: str, bare_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vendor_or_skip(DWA())
    BRIDGES[name](monkeypatch)
    (verdict,) = verify(DWA(), scripts=["cifar-100"], workdir=tmp_path / "work", run=run_here)
    assert list(verdict.problems) == ["gradient"]
