"""The graph of artefacts: what is missing, who makes it, and that it gets into the store once, whole, and from what."""

import shutil
import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from dire_plug.errors import DirePlugError, RunBusyError
from dire_plug.files import read_json
from dire_plug.store.artefacts import ENTRY, LEASES, WORK, Store
from dire_plug.store.graph import Group, build, cut, make_group, missing, needed
from dire_plug.store.lease import hold
from dire_plug.types.artefact import Artefact, Cost, SharedWork, Together, Work, add_up, everything_of


class World:
    """Small steps that write what they were made from, and remember what was made.

    Attributes:
        bits: kind → what else its making writes: another machine, another torch.
        made: kinds, in the order in which `make` was called.
        fails: calls of a step after which the next one is interrupted, by kind.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.bits, self.made = root, dict[str, str](), list[str]()
        self.fails: dict[str, int] = {}

    def store(self, **options: Any) -> Store:
        return Store(self.root, **options)

    def build(self, *targets: Artefact, **options: Any) -> list[str]:
        """Build some targets, and return the kinds that were made for it."""
        self.made.clear()
        build(self.store(**options), targets)
        return sorted(self.made)

    def missing(self, *targets: Artefact) -> list[str]:
        return [one.kind for one in missing(self.store(), targets)]

    def write(self, kind: str, work: Work) -> None:
        self.note(kind)
        behind = [*work.inputs.values(), *work.parts]
        read = "".join((folder / "value").read_text() for folder in behind)
        (work.folder / "value").write_text(f"{kind}{self.bits.get(kind, '')}({read})")

    def note(self, kind: str) -> None:
        if self.fails.get(kind) == self.made.count(kind):
            raise KeyboardInterrupt
        self.made.append(kind)

    def one(self, kind: str, number: int = 0, **relations: Any) -> Artefact:
        inputs = {role: one for role, one in relations.items() if isinstance(one, Artefact) and role != "chain"}
        others = {role: one for role, one in relations.items() if role not in inputs}
        options = {"make": partial(self.write, kind), "stage": f"stage of {kind}", **others}
        return Artefact(kind, {"number": number}, inputs, **options)

    def network(self, number: int = 0) -> Artefact:
        return self.one("network", number, cost=lambda: Cost(100.0))

    def passes(self, count: int, *, state: bool = False, parts: int = 0, number: int = 0) -> list[Artefact]:
        """The passes of a synthesis, made in one child, of which each begins anew or goes on from the last one."""
        net = self.network()
        shared = Artefact("pass", {"synthesis": number}, {"network": net})
        start = self.one("start", number)
        found: list[Artefact] = []
        for index in range(count):
            last = {"before": found[-1]} if state and found else {}
            batches = tuple(self.one("batch", 100 * number + 10 * index + k, network=net) for k in range(parts))
            together = None if parts else Together(shared, self.synthesize)
            options: dict[str, Any] = {"parts": batches, "together": together, "unit": not parts, **last}
            options |= {"network": net, "reads": {"start": start}, "chain": found[-1] if last else None}
            found.append(self.one("pass", 10 * number + index, **options))
        return found

    def synthesize(self, members: Sequence[Artefact], work: SharedWork) -> None:
        for one in members:
            slot = work.folder / one.name.replace("/", "-")
            slot.mkdir(exist_ok=True)
            for batch in range(2):
                if not (slot / f"{batch}").exists():
                    self.note("slot")
                    (slot / f"{batch}").write_text(self.bits.get("pass", ""))
            read = "".join((folder / "value").read_text() for folder in work.inputs(one).values())
            (slot / "value").write_text(f"pass{self.bits.get('pass', '')}({read})")
            self.made.append("pass")
            work.publish(one, slot, None)

    def images(self, passes: Iterable[Artefact]) -> Artefact:
        found: dict[str, Any] = {f"pass {index}": one for index, one in enumerate(passes)}
        return self.one("images", unit=False, **found)

    def student(self, images: Artefact, k: int = 0) -> Artefact:
        return self.one("student", k, images=images)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path / "store")


# Names, and what is behind.


def test_only_what_decides_it_enters_the_name_of_an_artefact(world: World) -> None:
    plain = Artefact("pass", {"seed": 0}, {"network": world.network()})
    full = Artefact(
        "pass",
        {"seed": 0},
        {"network": world.network()},
        lambda work: None,
        lambda: Cost(1.0),
        "recover",
        "pass 0",
        {"start": world.network(1)},
        (world.network(2),),
        world.network(3),
        unit=False,
        transient=True,
    )
    assert full.name == plain.name
    assert full == plain
    assert [one.kind for one in full.before] == ["network"] * 4
    assert list(full.closure()) == [world.network().name, full.name]
    assert len(everything_of([full])) == 5


def test_costs_are_asked_for_and_added_up(world: World) -> None:
    lacking = missing(world.store(), [world.images(world.passes(2))])
    assert add_up(one.cost() for one in lacking) == Cost(100.0)


# What is missing.


def test_all_is_made_once_and_inputs_first(world: World) -> None:
    images = world.images(world.passes(2))
    targets = [images, world.student(images), world.student(images, 1)]
    assert world.missing(*targets) == ["network", "start", "pass", "pass", "images", "student", "student"]
    made = world.build(*targets)
    assert sorted([*world.missing(*targets), *made]) == sorted(
        ["network", "start", "pass", "pass", "slot", "slot", "slot", "slot", "images", "student", "student"]
    )
    assert world.build(*targets) == []
    told = read_json(world.root / targets[1].name / ENTRY)
    assert told["made_from"] == {images.name: world.store().content(images)}
    assert told["made"]["seconds"] >= 0


def test_a_larger_one_goes_on_from_a_smaller_one(world: World) -> None:
    world.build(world.images(world.passes(2)))
    assert world.build(world.images(world.passes(3))) == ["images", "pass", "slot", "slot"]


def test_nothing_behind_what_is_sound_is_missing(world: World) -> None:
    images = world.images(world.passes(1))
    world.build(images)
    for one in (world.network(), *world.passes(1)):
        shutil.rmtree(world.root / one.name)
    assert world.missing(images) == []
    assert world.missing(images, world.student(images)) == ["student"]


def test_what_is_made_again_with_the_same_bits_leaves_the_rest(world: World) -> None:
    images = world.images(world.passes(1))
    world.build(images)
    shutil.rmtree(world.root / world.network().name)
    assert world.build(world.network(), images) == ["network"]


def test_other_bits_three_levels_down_make_all_in_between_again(world: World) -> None:
    images = world.images(world.passes(1))
    targets = world.student(images), world.student(world.images(world.passes(1, number=1)), 1)
    world.build(*targets)
    before = (world.root / targets[0].name / "value").read_text()
    shutil.rmtree(world.root / world.network().name)
    world.bits["network"] = " elsewhere"
    # the network is missing for what isn't there of a third, and comes out otherwise
    made = world.build(world.network(), *targets)
    assert made == sorted(["network", *(["pass", "slot", "slot", "images", "student"] * 2)])
    after = (world.root / targets[0].name / "value").read_text()
    assert after == before.replace("network", "network elsewhere")


def test_what_was_damaged_is_made_again_and_nothing_else(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    images = world.images(world.passes(2))
    target = world.student(images)
    world.build(target)
    damaged = world.root / world.passes(2)[1].name / "value"
    damaged.chmod(0o644)
    damaged.write_text("edited")
    assert world.missing(target) == ["pass", "images", "student"]
    assert world.build(target) == ["pass", "slot", "slot"]
    assert "was damaged, or edited; it is made again" in capsys.readouterr().err
    assert world.build(target) == []


def test_a_stage_that_runs_again_makes_its_artefacts_once(world: World) -> None:
    images = world.images(world.passes(1))
    target = world.student(images)
    world.build(target)
    assert world.build(target, rerun=["stage of network"]) == ["network"]
    world.bits["network"] = " anew"
    assert world.build(target, rerun=["stage of network"]) == sorted(
        ["network", "pass", "slot", "slot", "images", "student"]
    )
    assert world.build(target, rerun=["stage of student"]) == ["student"]


def test_what_is_never_what_it_was_made_from_ends_with_an_error(world: World) -> None:
    network = world.network()

    def make(work: Work) -> None:
        (work.folder / "value").write_text("a student")
        (value := world.root / network.name / "value").chmod(0o644)
        value.write_text("edited")
        world.bits["network"] = str(time.monotonic_ns())

    student = Artefact("student", {}, {"network": network}, make)
    with pytest.raises(DirePlugError, match="is out of date again each time that it is made"):
        world.build(network, student)
    assert world.made == ["network"] * 3


# What is needed, but decides nothing.


def test_what_is_read_must_be_there_and_decides_nothing(world: World) -> None:
    (one,) = world.passes(1)
    made: list[Path] = []
    reads = {"start": world.one("start")}
    reader = Artefact("reader", {}, {}, lambda work: made.append(work.inputs["start"]), reads=reads)
    assert reader.name == Artefact("reader", {}).name
    world.build(reader)
    assert made == [world.root / reads["start"].name]
    world.bits["start"] = " of another kind"
    assert world.build(reader, one, rerun=["start"]) == ["network", "pass", "slot", "slot", "start"]


def test_parts_count_only_while_the_whole_is_missing(world: World) -> None:
    passes = world.passes(2, parts=3)
    images = world.images(passes)
    assert world.missing(images).count("batch") == 6
    assert world.build(images).count("batch") == 6
    entry = read_json(world.root / passes[0].name / ENTRY)
    seconds = [read_json(world.root / one.name / ENTRY)["made"]["seconds"] for one in passes[0].parts]
    assert entry["made"]["seconds"] == pytest.approx(sum(seconds), abs=0.001)
    value = (world.root / passes[0].name / "value").read_text()
    assert value.count("batch") == 3
    for one in passes[0].parts:
        shutil.rmtree(world.root / one.name)
    assert world.missing(images) == []
    shutil.rmtree(world.root / passes[1].name)
    # its batches are there
    assert world.build(images, passes[1]) == ["pass"]
    shutil.rmtree(world.root / passes[0].name)
    assert world.build(images, passes[0]) == ["batch", "batch", "batch", "pass"]


def test_what_clean_keeps_holds_parts_of_what_is_missing_alone(world: World) -> None:
    images = world.images(world.passes(2, parts=2))

    def kinds() -> list[str]:
        return sorted(one.kind for one in needed(world.store(), [images]).values())

    assert kinds() == [*["batch"] * 4, "images", "network", "pass", "pass", "start"]
    world.build(images)
    assert kinds() == ["images", "network", "pass", "pass", "start"]


def test_a_leaf_is_the_users_own_and_an_error_where_it_changed(world: World, tmp_path: Path) -> None:
    (own := tmp_path / "mine").mkdir()
    (own / "value").write_text("a set from outside")

    def look() -> Path:
        if (own / "value").read_text() != "a set from outside":
            raise DirePlugError(f"{own}: has changed")
        return own

    given = Artefact("set", {"digest": "abc"}, leaf=look)
    student = world.student(given)
    assert world.build(student) == ["student"]
    assert "a set from outside" in (world.root / student.name / "value").read_text()
    assert [one.kind for one in needed(world.store(), [student]).values()] == ["student"]
    assert not (world.root / "set").exists()
    (own / "value").write_text("another")
    with pytest.raises(DirePlugError, match="mine: has changed"):
        world.build(world.student(given, 1))


# Made together.


def test_a_killed_group_goes_on_from_what_is_half_made(world: World) -> None:
    images = world.images(world.passes(3))
    world.fails["slot"] = 3
    with pytest.raises(KeyboardInterrupt):
        world.build(images)
    assert world.made == ["network", "start", "slot", "slot", "pass", "slot"]
    world.fails.clear()
    assert world.build(images) == ["images", "pass", "pass", "slot", "slot", "slot"]
    assert list((world.root / WORK).iterdir()) == []


def test_a_killed_group_begins_anew_where_its_inputs_have_changed(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    images = world.images(world.passes(2))
    world.fails["slot"] = 3
    with pytest.raises(KeyboardInterrupt):
        world.build(images)
    world.fails.clear()
    shutil.rmtree(world.root / world.network().name)
    world.bits["network"] = " elsewhere"
    assert world.build(images).count("slot") == 4
    assert "was begun from other inputs" in capsys.readouterr().err


def test_a_member_is_made_apart_where_work_is_spread(world: World) -> None:
    passes = world.passes(2)
    store = world.store()
    groups = cut(missing(store, [world.student(world.images(passes))]), spread=True)
    assert [[one.kind for one in group.members] for group in groups] == [
        ["network"],
        ["start"],
        ["pass"],
        ["pass"],
        ["student"],
    ]
    assert groups[-1].waits_for == {one.name for one in passes}
    assert groups[2].waits_for == {world.network().name, world.one("start").name}
    for group in groups[:2]:
        make_group(store, group)
    # the half-made ones of two processes lie apart
    world.fails["slot"] = 1
    with pytest.raises(KeyboardInterrupt):
        make_group(store, groups[2])
    world.fails["slot"] = 2
    with pytest.raises(KeyboardInterrupt):
        make_group(store, groups[3])
    assert len(list((world.root / WORK).iterdir())) == 2
    world.fails.clear()
    for group in groups[2:]:
        make_group(world.store(), group)
    assert world.made.count("slot") == 4
    assert world.made.count("images") == 1
    assert world.missing(world.student(world.images(passes))) == []


def test_a_chain_is_one_unit_and_stays_where_the_bits_stay(world: World) -> None:
    passes = world.passes(3, state=True)
    groups = cut(missing(world.store(), passes), spread=True)
    assert [[one.kind for one in group.members] for group in groups] == [["network"], ["start"], ["pass"] * 3]
    world.build(*passes)
    shutil.rmtree(world.root / passes[1].name)
    # the one after it was made from one with the same content
    assert world.build(*passes) == ["pass", "slot", "slot"]
    shutil.rmtree(world.root / passes[1].name)
    world.bits["pass"] = " otherwise"
    assert world.build(*passes) == ["pass", "pass", "slot", "slot", "slot", "slot"]


def test_members_of_a_group_wait_for_the_inputs_of_all(world: World) -> None:
    made: list[list[str]] = []

    def embed(members: Sequence[Artefact], work: SharedWork) -> None:
        made.append([str(one.inputs["network"].decided_by["number"]) for one in members])
        for one in members:
            (folder := work.folder / one.name.replace("/", "-")).mkdir()
            (folder / "value").write_text((work.inputs(one)["network"] / "value").read_text())
            work.publish(one, folder, None)

    together = Together(Artefact("embeddings", {"split": "train"}), embed)
    both = [Artefact("embeddings", {}, {"network": world.network(k)}, together=together) for k in range(2)]
    first, last = (world.one("rows", k, embeddings=one) for k, one in enumerate(both))
    assert world.build(first, last) == ["network", "network", "rows", "rows"]
    assert made == [["0", "1"]]


def test_groups_that_need_each_other_are_a_wrong_plan(world: World) -> None:
    together = Together(Artefact("embeddings", {}), world.synthesize)
    one = world.one("embeddings", together=together)
    other = world.one("embeddings", 1, rows=world.one("rows", embeddings=one), together=together)
    with pytest.raises(RuntimeError, match="waits for itself"):
        cut(missing(world.store(), [other]))


def test_a_step_that_leaves_a_member_unmade_is_named(world: World) -> None:
    together = Together(Artefact("pass", {}), lambda members, work: None)
    with pytest.raises(DirePlugError, match="wasn't made by the step that makes it"):
        world.build(world.one("pass", together=together))


# Not kept.


class Labels:
    """Stored labels, which count how often they are made, and where they lie."""

    def __init__(self, world: World, images: Artefact, *, disk: int = 0, keep: bool = False) -> None:
        self.places: list[Path] = []
        self.world = world
        cost = Cost(50.0, disk=disk)
        self.artefact = world.one("labels", images=images, make=self.make, cost=lambda: cost, transient=not keep)
        self.students = [world.one("student", k, images=images, labels=self.artefact) for k in range(3)]

    def make(self, work: Work) -> None:
        self.places.append(work.folder)
        if not (work.folder / "value").exists():
            self.world.write("labels", work)


@pytest.mark.parametrize("scratch", [False, True])
def test_labels_are_made_once_for_all_students_and_go(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scratch: bool
) -> None:
    if scratch:
        (tmp_path / "scratch").mkdir()
        monkeypatch.setenv("DIRE_PLUG_SCRATCH", str(tmp_path / "scratch"))
    labels = Labels(world, world.network())
    assert world.build(*labels.students) == ["labels", "network", "student", "student", "student"]
    assert [one.is_relative_to(tmp_path / "scratch") for one in labels.places] == [scratch]
    assert not labels.places[0].exists()
    assert not (world.root / "labels").exists()
    assert list((world.root / WORK).iterdir()) == []
    assert world.build(*labels.students) == []


def test_labels_lie_in_the_work_folder_where_scratch_has_no_room(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIRE_PLUG_SCRATCH", str(tmp_path))
    labels = Labels(world, world.network(), disk=1 << 62)
    world.build(*labels.students)
    assert labels.places[0].is_relative_to(world.root / WORK)


def test_a_killed_unit_goes_on_with_the_labels_of_its_work_folder(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels = Labels(world, world.network())
    world.fails["student"] = 1
    with pytest.raises(KeyboardInterrupt):
        world.build(*labels.students)
    monkeypatch.setenv("DIRE_PLUG_SCRATCH", str(tmp_path))
    world.fails.clear()
    assert world.build(*labels.students) == ["student", "student"]
    assert labels.places[0].parent == labels.places[1].parent == world.root / WORK
    assert list((world.root / WORK).iterdir()) == []


def test_labels_and_all_students_that_lack_are_one_unit(world: World) -> None:
    labels = Labels(world, world.network())
    (network, unit) = cut(missing(world.store(), labels.students), spread=True)
    assert [one.kind for one in network.members] == ["network"]
    assert [one.kind for one in unit.members] == ["labels", "student", "student", "student"]
    assert unit.waits_for == {world.network().name}
    assert unit.stage == "stage of student"


def test_labels_that_are_kept_are_an_artefact_like_others(world: World) -> None:
    labels = Labels(world, world.network(), keep=True)
    world.build(*labels.students)
    assert (world.root / labels.artefact.name / ENTRY).is_file()
    assert len(cut(missing(Store(world.root / "other"), labels.students), spread=True)) == 5


def test_no_labels_are_made_for_students_that_another_process_made(world: World) -> None:
    labels = Labels(world, world.network())
    groups = cut(missing(world.store(), labels.students))
    world.build(*labels.students)
    labels.places.clear()
    make_group(world.store(), groups[1])
    assert labels.places == []


# Other processes.


def test_what_another_process_makes_is_waited_for_or_busy(world: World) -> None:
    one = world.network()
    lease = world.root / LEASES / f"{one.name.replace('/', '-')}.lease"
    with hold(lease, what="another process"), pytest.raises(RunBusyError):
        world.build(one, wait=False)
    assert world.build(one, wait=False) == ["network"]


def test_a_unit_whose_input_is_gone_or_damaged_says_which(world: World) -> None:
    student = world.one("student", images=world.network(), title="student 0 of dire")
    unit = Group((student,), frozenset())
    with pytest.raises(DirePlugError, match=f"student 0 of dire: {world.network().name}, .* isn't there"):
        make_group(world.store(), unit)
    world.build(world.network())
    (value := world.root / world.network().name / "value").chmod(0o644)
    value.write_text("edited")
    with pytest.raises(DirePlugError, match="was damaged, or edited"):
        make_group(world.store(), unit)


def test_what_another_process_published_meanwhile_stays(world: World) -> None:
    (one,) = world.passes(1)
    world.build(world.network(), world.one("start"))

    def late(members: Sequence[Artefact], work: SharedWork) -> None:
        (folder := work.folder / "slot").mkdir()
        (folder / "value").write_text("of another process")
        world.store().publish(one, folder, seconds=None)
        (other := work.folder / "late").mkdir()
        (other / "value").write_text("too late")
        work.publish(one, other, None)

    world.build(Artefact(one.kind, one.decided_by, one.inputs, together=Together(Artefact("pass", {}), late)))
    assert (world.root / one.name / "value").read_text() == "of another process"
