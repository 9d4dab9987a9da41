"""The store: entries whole or absent, named by what decides them, and what runs find of it again."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from support.cli import install
from support.small_run import forget, native, only_run, outcome, run_folders, watch_passes, when_made, write_recipe
from support.third_party_plugin import entry_points_text, offer

from dire_plug.errors import DirePlugError
from dire_plug.files import read_json, write_json
from dire_plug.pipeline import Request, plan_run, run_arm, with_data
from dire_plug.pipeline.run import name_artefacts
from dire_plug.stages.artefacts import name_inputs, name_networks, name_recovered, name_term_embeddings
from dire_plug.store import provenance
from dire_plug.store.archive import read_archive, write_archive
from dire_plug.store.artefacts import ENTRY, Store, differences, is_sound, link
from dire_plug.types.artefact import Artefact


class Maker:
    """Makes entries of one file, and counts them."""

    def __init__(self, content: str = "made") -> None:
        self.content = content
        self.calls = 0

    def __call__(self, folder: Path) -> None:
        (folder / "inner").mkdir(exist_ok=True)
        (folder / "inner" / "file").write_text(self.content)
        self.calls += 1


def network(seed: object = 0) -> Artefact:
    return Artefact("network", {"seed": seed})


def embeddings(made_from: Artefact) -> Artefact:
    return Artefact("embeddings", {"split": "train"}, {"network": made_from})


# Names.


def test_a_name_depends_on_kind_fields_roles_and_inputs_alone() -> None:
    def name(
        kind: str = "pass", decided_by: Mapping[str, Any] | None = None, inputs: Mapping[str, Artefact] | None = None
    ) -> str:
        fields = {"lr": 0.1, "flags": {"a": 1, "b": [1, 2]}} if decided_by is None else decided_by
        return Artefact(kind, fields, {"teacher": network(), "real": network(1)} if inputs is None else inputs).name

    others = [
        name("images"),
        name(decided_by={"lr": 0.2, "flags": {"a": 1, "b": [1, 2]}}),
        name(decided_by={"lr": 0.1, "flags": {"a": 2, "b": [1, 2]}}),
        name(decided_by={"lr": 0.1, "flags": {"a": 1, "b": [2, 1]}}),
        name(decided_by={"lr": 0.1}),
        name(decided_by={"lr": 0.1, "flags": {"a": 1, "b": [1, 2]}, "more": None}),
        name(inputs={"teacher": network(2), "real": network(1)}),
        name(inputs={"teacher": network(), "other": network(1)}),
        name(inputs={"teacher": network(1), "real": network()}),
        name(inputs={"teacher": network()}),
        name(inputs={"teacher": network(), "real": embeddings(network(1))}),
    ]
    assert len({name(), *others}) == 1 + len(others)
    assert name(decided_by={"flags": {"b": [1, 2], "a": 1}, "lr": 0.1}) == name()
    assert name(inputs={"real": network(1), "teacher": network()}) == name()
    kind, _, digits = name().partition("/")
    assert (kind, len(digits), set(digits) <= set("0123456789abcdef")) == ("pass", 20, True)


def test_a_name_depends_on_what_its_inputs_are_made_from() -> None:
    assert embeddings(network(0)).name != embeddings(network(1)).name
    assert list(embeddings(network()).closure()) == [network().name, embeddings(network()).name]


# Whole or absent.


def test_an_entry_is_made_once_and_goes_on_from_what_a_failure_left(tmp_path: Path) -> None:
    store, seen = Store(tmp_path), []

    def make(folder: Path) -> None:
        seen.append(sorted(path.name for path in folder.iterdir()))
        (folder / "epoch-1").write_text("")
        if len(seen) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.ensure(network(), make)
    assert not store.has(network())
    assert store.find(network()) is None
    entry = store.ensure(network(), make)
    assert store.ensure(network(), make) == entry == tmp_path / network().name
    assert seen == [["made_from.json"], ["epoch-1", "made_from.json"]]
    assert sorted(path.name for path in entry.iterdir()) == [ENTRY, "epoch-1"]
    assert store.made == {network().name}
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize(("device", "asked"), [("cpu", False), ("meta", True)])
def test_an_entry_is_made_on_deterministic_kernels(tmp_path: Path, device: str, asked: bool) -> None:
    seen = []

    def make(folder: Path) -> None:
        seen.append(torch.are_deterministic_algorithms_enabled())
        Maker()(folder)

    Store(tmp_path, device=device).ensure(network(), make)
    assert seen == [asked]
    assert not torch.are_deterministic_algorithms_enabled()


def test_an_entry_that_cannot_be_put_in_its_place_is_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", fail)
        with pytest.raises(DirePlugError, match=f"{network().name}: cannot be written: No space left on device"):
            Store(tmp_path).ensure(network(), Maker())
    assert Store(tmp_path).find(network()) is None
    assert Store(tmp_path).ensure(network(), Maker()).is_dir()


def test_an_entry_tells_what_decided_it_what_it_is_made_from_and_how(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.ensure(network(), Maker())
    told = read_json(store.ensure(embeddings(network()), Maker("rows")) / ENTRY)
    assert (told["kind"], told["decided_by"]) == ("embeddings", {"split": "train"})
    assert told["inputs"] == {"network": network().name}
    assert told["made_from"] == {network().name: store.content(network())}
    assert list(told["files"]) == ["inner/file"]
    assert told["made"]["seconds"] >= 0
    assert provenance.session("cpu").items() <= told["made"].items()
    assert store.how_made(network(9)) is None


def test_the_files_of_an_entry_are_read_only(tmp_path: Path) -> None:
    entry = Store(tmp_path).ensure(network(), Maker())
    assert (entry / "inner" / "file").stat().st_mode & 0o777 == 0o444


WORKER = """
import sys, time
from pathlib import Path
from dire_plug.store.artefacts import Store
from dire_plug.types.artefact import Artefact

folder, me = Path(sys.argv[1]), sys.argv[2]

def make(work):
    (folder / f"making-{me}").touch()
    time.sleep(1)
    (work / "file").write_text("x")

(folder / f"ready-{me}").touch()
while len(list(folder.glob("ready-*"))) < 2:
    time.sleep(0.01)
print(Store(folder / "store").ensure(Artefact("network", {"seed": 0}), make))
"""


def test_two_processes_that_want_one_entry_make_it_once(tmp_path: Path) -> None:
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, str(tmp_path), me], stdout=subprocess.PIPE, text=True)
        for me in ("a", "b")
    ]
    answers = [worker.communicate()[0].splitlines()[-1] for worker in workers]
    assert answers == [str(tmp_path / "store" / network().name)] * 2
    assert len(list(tmp_path.glob("making-*"))) == 1


# Damage.


def flip_a_bit(entry: Path) -> None:
    file = entry / "inner" / "file"
    file.chmod(0o644)
    content = bytearray(file.read_bytes())
    content[0] ^= 1
    file.write_bytes(content)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped bit": (flip_a_bit, "was damaged, or edited"),
    "a file that is gone": (lambda entry: (entry / "inner" / "file").unlink(), "was damaged, or edited"),
    "a file too many": (lambda entry: (entry / "more").write_text(""), "was damaged, or edited"),
    "another content told": (
        lambda entry: write_json(entry / ENTRY, {**read_json(entry / ENTRY), "content": "0" * 64}),
        "was damaged, or edited",
    ),
    "a cut entry.json": (lambda entry: os.truncate(entry / ENTRY, 20), "has no readable entry.json"),
    "a provenance of another form": (
        lambda entry: write_json(
            entry / ENTRY, {**read_json(entry / ENTRY), "made": {"versions": [], "hardware": None}}
        ),
        "has no readable entry.json",
    ),
    "an entry.json of something else": (lambda entry: write_json(entry / ENTRY, []), "has no readable entry.json"),
}


@pytest.mark.parametrize("damage", list(DAMAGE))
def test_damage_is_noticed_said_once_and_made_again(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    do, words = DAMAGE[damage]
    one, maker = network(damage), Maker()
    entry = Store(tmp_path).ensure(one, maker)
    do(entry)
    store = Store(tmp_path)
    assert store.find(one) is None
    assert store.find(one) is None
    assert store.ensure(one, maker) == entry
    assert store.ensure(one, maker) == entry
    assert maker.calls == 2
    assert capsys.readouterr().err == f"store: {one.name} {words}; it is made again\n"
    assert (entry / "inner" / "file").read_text() == "made"
    assert Store(tmp_path).find(one) == entry
    assert [path.name for path in entry.parent.iterdir()] == [entry.name]


MISFITS = {
    "network.json": ["{}", "[]", "null", '{"accuracy": 1e999, "judged": "test"}', "[" * 200_000],
    "student.json": ['{"last": 1.0, "best": 1.0, "best_epoch": 1, "curve": [[1]]}'],
    "diversity.json": ['{"real": {}}'],
    "collapse.json": ['{"recognised": "x"}'],
}


@pytest.mark.parametrize(("file", "text"), [(file, text) for file, texts in MISFITS.items() for text in texts])
def test_what_cannot_be_read_as_what_it_is_counts_as_damaged(
    tmp_path: Path, file: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    one = network(text)

    def make(folder: Path) -> None:
        (folder / file).write_text(text)

    Store(tmp_path / "store").ensure(one, make)
    write_archive(tmp_path / "store", tmp_path / "a.tar", names=[one.name], runs={})
    with pytest.raises(DirePlugError, match=rf"doesn't hold what is read of it \({file}: .*nothing was imported"):
        read_archive(tmp_path / "other", tmp_path / "a.tar")
    assert not list((tmp_path / "other").rglob(file))
    assert is_sound(tmp_path / "store", one.name) is False
    Store(tmp_path / "store").ensure(one, again := Maker())
    assert again.calls == 1
    assert f"{one.name} doesn't hold what is read of it ({file}: " in capsys.readouterr().err


def test_an_entry_without_its_entry_json_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    maker = Maker()
    (Store(tmp_path).ensure(network(), maker) / ENTRY).unlink()
    Store(tmp_path).ensure(network(), maker)
    assert maker.calls == 2
    assert capsys.readouterr().err == ""


# What an entry is made from.


def test_an_input_with_another_content_makes_an_entry_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    teacher, maker = network("replaced"), Maker()
    first = Store(tmp_path)
    first.ensure(teacher, Maker("one"))
    first.ensure(embeddings(teacher), maker)
    again = Store(tmp_path, rerun=["network"])
    again.ensure(teacher, Maker("other"))
    again.ensure(embeddings(teacher), maker)
    assert maker.calls == 2
    trouble = f"was made from another network than the one that is here ({teacher.name})"
    assert f"store: {embeddings(teacher).name} {trouble}; it is made again\n" in capsys.readouterr().err


def test_an_input_made_again_with_the_same_content_makes_nothing_again(tmp_path: Path) -> None:
    maker = Maker()
    for rerun in ((), ("network",)):
        store = Store(tmp_path, rerun=rerun)
        store.ensure(network(), Maker())
        store.ensure(embeddings(network()), maker)
    assert maker.calls == 1


def test_an_entry_outlives_what_it_was_made_from(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.ensure(network(), Maker())
    entry = store.ensure(embeddings(network()), Maker())
    shutil.rmtree(store.path(network()))
    assert Store(tmp_path).find(embeddings(network())) == entry


def test_work_that_was_begun_from_other_inputs_begins_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, again = Store(tmp_path), Store(tmp_path, rerun=["network"])
    first.ensure(network(), Maker("one"))
    (first.work(embeddings(network())) / "half").write_text("")
    assert (first.work(embeddings(network())) / "half").exists()
    assert capsys.readouterr().err == ""
    again.ensure(network(), Maker("other"))
    work = again.work(embeddings(network()))
    assert [path.name for path in work.iterdir()] == ["made_from.json"]
    words = "was begun from other inputs than those in the store now; it starts again"
    assert capsys.readouterr().err == f"store: {embeddings(network()).name} {words}\n"


def test_rerun_makes_entries_of_its_kinds_again_exactly_once(tmp_path: Path) -> None:
    makers = [(network(), Maker()), (network(1), Maker()), (Artefact("student", {}), Maker())]
    for artefact, maker in makers:
        Store(tmp_path).ensure(artefact, maker)
    store = Store(tmp_path, rerun=["network"])
    for _ in range(2):
        for artefact, maker in makers:
            store.ensure(artefact, maker)
    assert [maker.calls for _, maker in makers] == [2, 2, 1]


def test_how_an_entry_was_made_is_compared_with_this_process() -> None:
    here = {"hardware": {"device": "cpu", "threads": 1}, "versions": {"torch": "2.5.0"}}
    assert differences(here, here) == []
    there = {"hardware": {"device": "cuda", "threads": 2}, "versions": {"torch": "2.6.0"}, "seconds": 3}
    assert differences(there, here) == ["device cuda (here cpu)", "threads 2 (here 1)", "torch 2.6.0 (here 2.5.0)"]


# Links.


def test_a_link_is_the_file_itself_and_takes_the_place_of_what_is_there(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "folder" / "target"
    source.write_text("new")
    link(source, target)
    assert target.samefile(source)
    link(source, target)
    assert target.samefile(source)
    target.unlink()
    target.write_text("old")
    link(source, target)
    assert target.samefile(source)
    assert source.read_text() == "new"


def test_where_no_link_can_be_a_copy_takes_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*given: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", fail)
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_text("new")
    target.write_text("old")
    for _ in range(2):
        link(source, target)
        assert target.read_text() == "new"
        assert not target.samefile(source)


# Names of runs.


def names_of(request: Request) -> dict[str, set[str]]:
    """Return kind → names of all that a run is made from and ends in; nothing is made."""
    found: dict[str, set[str]] = {}
    for end in name_artefacts(with_data(plan_run(request))).values():
        for name, one in end.closure().items():
            found.setdefault(one.kind, set()).add(name)
    return found


def passes_of(request: Request) -> list[Artefact]:
    """Return the passes of a run in order; nothing is made."""
    run = with_data(plan_run(request))
    networks = name_networks(run)
    inputs = name_inputs(run, networks)
    return name_recovered(run, networks, inputs, name_term_embeddings(run, networks, inputs))[1]


IMAGES = {"pass", "images", "student", "diversity", "collapse"}
"""Kinds that depend on the images of a run."""


@pytest.mark.parametrize(
    ("setting", "kinds"),
    [
        ("evaluate.epochs=3", {"student"}),
        ("evaluate.lr=0.5", {"student"}),
        ("evaluate.students=[convnet-small]", {"student"}),
        ("evaluate.source=tensor", {"student", "diversity", "collapse"}),
        ("measure.nearest_k=3", {"radii", "reference", "diversity"}),
        ("recover.flags.lr=0.2", IMAGES),
        ("recover.plan.per_class=1", IMAGES),
        ("regularizers.dire.r_e=0.5", IMAGES),
        ("real.per_class=3", {"real", *IMAGES}),
        ("squeeze.independent.epochs=2", {"network", "embeddings", "radii", "reference", "diversity", "collapse"}),
        ("squeeze.teacher.epochs=2", {"network", "embeddings", "radii", "reference", *IMAGES}),
        ("dataset.limit=110", {"network", "embeddings", "radii", "reference", *IMAGES}),
        ("regularizers.dire.weight=1.0", set()),
        ("squeeze.frozen.resnet-18={architecture: resnet-18, epochs: 1}", set()),
    ],
)
def test_a_setting_changes_the_names_of_what_it_decides(
    bare_home: Path, recipe: Path, setting: str, kinds: set[str]
) -> None:
    before, after = (names_of(native(recipe, "dire", settings=given)) for given in ((), (setting,)))
    assert {kind for kind in before.keys() | after.keys() if before.get(kind) != after.get(kind)} == kinds


def test_arms_and_seeds_share_what_they_do_not_decide(bare_home: Path, recipe: Path) -> None:
    baseline = names_of(native(recipe))
    for other in (native(recipe, "control"), native(recipe, "dire"), native(recipe, seed=1)):
        found = names_of(other)
        assert {kind for kind in baseline if found[kind] != baseline[kind]} == IMAGES


@pytest.mark.parametrize("arm", ["baseline", "dire"])
def test_more_images_per_class_begin_with_the_same_passes(bare_home: Path, recipe: Path, arm: str) -> None:
    few, many = (
        [one.name for one in passes_of(native(recipe, arm, settings=("recover.plan.per_class=1",), ipc=ipc))]
        for ipc in (2, 4)
    )
    assert (len(few), len(many)) == (2, 4)
    assert many[:2] == few


# Runs.


def kinds_since(home: Path, before: Mapping[str, int]) -> list[str]:
    """Return the kind of each entry that was made since then, sorted."""
    return sorted(name.partition("/")[0] for name, when in when_made(home).items() if before.get(name) != when)


def test_another_evaluation_synthesizes_nothing(
    finished_home: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, begun = when_made(finished_home), watch_passes(monkeypatch)
    forget()
    other = run_arm(native(recipe, settings=("evaluate.epochs=3",)))
    assert (begun, kinds_since(finished_home, before)) == ([], ["student"])
    assert not other.reused
    assert len(run_folders(finished_home)) == 2


def test_another_metric_trains_no_student(finished_home: Path, recipe: Path) -> None:
    before = when_made(finished_home)
    forget()
    run_arm(native(recipe, settings=("measure.nearest_k=3",)))
    assert kinds_since(finished_home, before) == ["diversity"] * 2 + ["radii"] * 2 + ["reference"] * 2


def test_more_images_per_class_need_only_the_further_passes(
    finished_home: Path, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, few = when_made(finished_home), outcome(only_run(finished_home))
    forget()
    begun = watch_passes(monkeypatch)
    grown = outcome(run_arm(native(recipe, ipc=4)).folder.path)
    assert begun == [2, 3]
    assert kinds_since(finished_home, before).count("pass") == 2
    images = {name for name in few if name.startswith("images/")}
    assert {name: grown[name] for name in images} == {name: few[name] for name in images}
    monkeypatch.setenv("DIRE_PLUG_HOME", str(tmp_path / "other"))
    assert outcome(run_arm(native(recipe, ipc=4)).folder.path) == grown
    assert begun == [2, 3, 0, 1, 2, 3]


TERM = """
from dire_plug.api.term import Settings, Term, hookimpl


class EvenSettings(Settings):
    pass


class Even(Term[EvenSettings]):
    settings_model = EvenSettings

    @hookimpl
    def loss_term(self, synthesis, batch):
        return -batch.embeddings.var(dim=0).mean()
"""


@pytest.fixture
def even(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that holds an installed third-party package with the regularizer `even`."""
    site = tmp_path / "site"
    package = site / "even_plugin"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "term.py").write_text(TERM)
    offer(site, "even_plugin", entry_points_text({"dire_plug.regularizers": {"even": "even_plugin.term:Even"}}))
    for name in ("even_plugin", "even_plugin.term"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    install(site, monkeypatch)
    return site


def test_a_plugins_changed_code_synthesizes_again_and_its_readme_does_not(
    home: Path, recipe: Path, even: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run_arm(native(recipe, "even"))
    begun = watch_passes(monkeypatch)
    (even / "README.md").write_text("More words.\n")
    assert run_arm(native(recipe, "even")).reused
    assert begun == []
    (even / "even_plugin" / "numbers.txt").write_text("1 2 3\n")
    other = run_arm(native(recipe, "even"))
    assert begun == [0]
    assert other.folder.path != first.folder.path
    (even / "even_plugin" / "numbers.txt").unlink()
    assert run_arm(native(recipe, "even")).folder.path == first.folder.path
    assert begun == [0]


def test_with_a_third_partys_term_two_ipcs_share_no_pass(bare_home: Path, recipe: Path, even: Path) -> None:
    few, many = ([one.name for one in passes_of(native(recipe, "even", ipc=ipc))] for ipc in (2, 4))
    assert not set(few) & set(many)


@pytest.mark.parametrize("kind", ["network", "embeddings", "pass", "images", "student", "diversity", "collapse"])
def test_an_entry_that_was_removed_by_hand_is_made_again(
    finished_home: Path, recipe: Path, baseline: Path, kind: str
) -> None:
    before = when_made(finished_home)
    removed = sorted(name for name in before if name.startswith(f"{kind}/"))[0]
    shutil.rmtree(finished_home / "store" / removed)
    forget()
    again = run_arm(native(recipe))
    assert not again.reused
    assert kinds_since(finished_home, before) == [kind]
    assert outcome(only_run(finished_home)) == outcome(baseline)


def test_what_no_missing_entry_is_made_from_is_not_made_again(finished_home: Path, recipe: Path) -> None:
    before = when_made(finished_home)
    for kind in ("radii", "reference"):
        shutil.rmtree(finished_home / "store" / kind)
    forget()
    assert run_arm(native(recipe)).reused
    assert kinds_since(finished_home, before) == []


def test_images_removed_or_replaced_in_a_finished_run_are_put_back(
    finished_home: Path, recipe: Path, baseline: Path
) -> None:
    before = when_made(finished_home)
    gone, replaced = sorted((only_run(finished_home) / "images").rglob("*.jpg"))[:2]
    gone.unlink()
    replaced.unlink()
    replaced.write_bytes(b"another")
    (only_run(finished_home) / "images.safetensors").unlink()
    forget()
    assert run_arm(native(recipe)).reused
    assert kinds_since(finished_home, before) == []
    assert outcome(only_run(finished_home)) == outcome(baseline)


def test_a_run_tells_what_it_reuses_that_was_made_with_other_threads(
    finished_home: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget()
    threads = torch.get_num_threads()
    assert run_arm(native(recipe)).notes == ()
    torch.set_num_threads(threads + 1)
    try:
        finished = run_arm(native(recipe))
        further = run_arm(native(recipe, settings=("evaluate.epochs=3",)))
    finally:
        torch.set_num_threads(threads)
    made_otherwise = f"reused, made with threads {threads} (here {threads + 1}): "
    for run in (finished, further):
        (note,) = run.notes
        assert note.startswith(made_otherwise)
        assert {"teacher", "independent", "images", "pass"} <= set(note.removeprefix(made_otherwise).split(", "))
    assert finished.reused
    assert "student resnet-small 0" in finished.notes[0]
    assert "student resnet-small 0" not in further.notes[0]
    assert finished.metrics["recover"]["hardware"]["threads"] == threads


def test_a_bank_makes_each_pass_depend_on_the_one_before(bare_home: Path, tmp_path: Path) -> None:
    arms = {"dire": {"overrides": {"recover": {"plan": {"per_class": 1}, "bank": True}}}}
    path = write_recipe(tmp_path / "bank.yaml", {"ipc": 3, "arms": arms})
    chained = passes_of(native(path, "dire"))
    assert [one.inputs.get("the pass before") for one in chained] == [None, *chained[:-1]]
    independent = passes_of(native(path, "dire", settings=("recover.bank=false",)))
    assert ["the pass before" in one.inputs for one in independent] == [False] * 3
