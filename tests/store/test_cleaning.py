"""The store between runs: what `clean` keeps, and archives from one home to another."""

import datetime
import hashlib
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support.cli import Cli
from support.small_run import only_run, outcome, read_rows

from dire_plug.errors import DirePlugError, RunBusyError
from dire_plug.files import digest, format_bytes, make_folder, read_json, write_json
from dire_plug.paper.reproduce.result import attempt
from dire_plug.pipeline import Request, run_arm
from dire_plug.pipeline import run as pipeline
from dire_plug.results import stored, table
from dire_plug.results.arms import compare
from dire_plug.sets.evaluate import evaluate_set
from dire_plug.sets.opened import SetRequest
from dire_plug.stages.artefacts import REVISIONS
from dire_plug.store import archive, cleaning
from dire_plug.store.archive import read_archive, write_archive
from dire_plug.store.artefacts import Store, lease_of, put
from dire_plug.store.cleaning import KINDS, MARK, ROOTS, clean, plan_cleaning, read_entries, register, with_inputs
from dire_plug.store.lease import hold
from dire_plug.store.runs import RunFolder
from dire_plug.types.artefact import Artefact

YEAR = 365.0
NETWORK = Artefact("network", {"seed": 0})
EMBEDDINGS = Artefact("embeddings", {}, {"network": NETWORK})
RADII = Artefact("radii", {}, {"embeddings": EMBEDDINGS})
OTHER = Artefact("network", {"seed": 1})
STUDENT = Artefact("student", {}, {"teacher": OTHER})
ALL = (NETWORK, EMBEDDINGS, RADII, OTHER, STUDENT)


def make(store: Path, *artefacts: Artefact, content: str = "") -> None:
    """Put entries into a store, each with one file."""
    for one in artefacts:
        Store(store).ensure(one, partial(fill, content or one.name))


def fill(content: str, folder: Path) -> None:
    write(folder / "file", content)


def write(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def age(path: Path, *, days: float) -> None:
    """Make an entry, or another folder, older."""
    if (entry := path / "entry.json").is_file():
        record = read_json(entry)
        when = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=days)
        write_json(entry, record | {"made": record["made"] | {"when": when.isoformat(timespec="seconds")}})
        return
    then = datetime.datetime.now().timestamp() - 86400 * days
    for one in (*path.rglob("*"), path):
        os.utime(one, (then, then))


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def names(store: Path) -> set[str]:
    return set(read_entries(store))


def names_of(*artefacts: Artefact) -> set[str]:
    return {one.name for one in artefacts}


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return path → inode and content of all files below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): (path.stat().st_ino, path.read_bytes()) for path in files}


def run_naming(root: Path, *artefacts: Artefact, name: str = "baseline-0-12345678") -> Path:
    """Make a run's folder that names these."""
    folder = root / "sre2l" / "tiny" / name
    write_json(folder / "status.json", {"state": "finished"})
    write_json(folder / "artefacts.json", {one.name: one.kind for one in artefacts})
    return folder


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store whose entries are a year old."""
    folder = tmp_path / "store"
    make(folder, *ALL)
    for one in ALL:
        age(folder / one.name, days=YEAR)
    return folder


@pytest.fixture
def own_home(bare_home: Path, finished: Path) -> Path:
    """A home of the test's own with the finished run and what it left in the store."""
    shutil.copytree(finished, bare_home)
    (bare_home / "store" / ROOTS).unlink()
    register(bare_home / "store", bare_home / "runs", RunFolder(only_run(bare_home)).artefacts())
    return bare_home


# Folders of runs.


def test_a_run_registers_its_folder_with_all_that_it_names(finished: Path, baseline: Path) -> None:
    told = sorted(read_json(baseline / "artefacts.json"))
    assert read_json(finished / "store" / ROOTS) == {str(finished / "runs"): {"names": told}}
    assert (finished / "runs" / MARK).is_file()


def test_a_run_is_registered_before_its_first_stage(
    bare_home: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_run: object) -> None:
        raise DirePlugError("stopped")

    monkeypatch.setattr(pipeline, "squeeze", stop)
    with pytest.raises(DirePlugError, match="stopped"):
        run_arm(Request("sre2l", recipe=str(recipe), engine="native"))
    told = read_json(bare_home / "store" / ROOTS)[str(bare_home / "runs")]["names"]
    assert told == sorted(read_json(only_run(bare_home) / "artefacts.json")) != []


def test_a_folder_remembers_what_all_of_its_runs_name(store: Path, root: Path, tmp_path: Path) -> None:
    register(store, root, ["network/b"])
    register(store, root, ["network/a"])
    register(store, tmp_path / "elsewhere", [])
    assert read_json(store / ROOTS) == {
        str(root): {"names": ["network/a", "network/b"]},
        str(tmp_path / "elsewhere"): {"names": []},
    }


def test_a_folder_that_was_moved_tells_what_all_of_its_runs_name(store: Path, root: Path) -> None:
    run_naming(root, EMBEDDINGS)
    register(store, root, [STUDENT.name])
    assert read_json(store / ROOTS) == {str(root): {"names": sorted(names_of(EMBEDDINGS, STUDENT))}}


def test_a_folder_has_not_told_while_one_of_its_runs_does_not(store: Path, root: Path) -> None:
    run = run_naming(root, EMBEDDINGS)
    (run / "artefacts.json").unlink()
    register(store, root, [STUDENT.name])
    assert read_json(store / ROOTS) == {str(root): {"names": None}}
    write_json(run / "artefacts.json", {EMBEDDINGS.name: "embeddings"})
    register(store, root, [STUDENT.name])
    assert read_json(store / ROOTS) == {str(root): {"names": sorted(names_of(EMBEDDINGS, STUDENT))}}


def test_a_store_that_cannot_be_written_is_used_all_the_same(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "store" / "leases", "a file stands in the way")
    register(tmp_path / "store", root, [])
    assert "this folder of runs isn't registered, so `clean` may remove what it names" in capsys.readouterr().err


def test_the_students_of_a_set_are_named_by_its_folder(own_home: Path, baseline: Path, recipe: Path) -> None:
    asked = SetRequest(baseline / "images", recipe=str(recipe))
    found = evaluate_set(asked, students=["resnet-small"])
    again = evaluate_set(asked, students=["convnet-small"])
    assert again.folder == found.folder
    roles = read_json(found.folder / "artefacts.json")
    students = {name for name, role in roles.items() if role.startswith("student ")}
    assert {roles[name] for name in students} == {"student resnet-small 0", "student convnet-small 0"}
    assert "teacher" in roles.values()
    # told when it began, not only in its folder
    assert students <= set(read_json(own_home / "store" / ROOTS)[str(own_home / "runs")]["names"])
    assert plan_cleaning(own_home / "store", days=0).entries == {}
    shutil.rmtree(found.folder)
    assert set(plan_cleaning(own_home / "store", days=0).entries) == students


def test_kinds_are_those_that_have_a_revision() -> None:
    assert sorted(KINDS) == sorted(REVISIONS)


def test_inputs_come_before_what_is_made_from_them_however_long_the_chain() -> None:
    chain = {f"pass/{number}": [f"pass/{number - 1}"] for number in range(1, 5000)}
    assert with_inputs(chain, ["pass/4999", "pass/17"]) == [f"pass/{number}" for number in range(5000)]


# What clean keeps and what goes.


def test_what_a_run_names_stays_with_all_that_it_is_made_from(store: Path, root: Path) -> None:
    run_naming(root, EMBEDDINGS)  # the network isn't named, but embeddings are made from it
    register(store, root, [])
    found = clean(store)
    assert set(found.entries) == names_of(OTHER, STUDENT)
    assert names(store) == names_of(NETWORK, EMBEDDINGS, RADII)
    assert (found.named, found.young, found.notes) == (3, 0, ())


def test_radii_stay_as_long_as_their_embeddings_do(store: Path, root: Path) -> None:
    run_naming(root, STUDENT)
    register(store, root, [])
    assert set(plan_cleaning(store).entries) == names_of(NETWORK, EMBEDDINGS, RADII)


@pytest.mark.parametrize(("days", "goes"), [(6.9, False), (7.1, True)])
def test_what_came_less_than_a_week_ago_stays(store: Path, root: Path, days: float, goes: bool) -> None:
    run_naming(root, EMBEDDINGS, STUDENT)
    register(store, root, [])
    make(store, made := Artefact("subset", {}))
    age(store / made.name, days=days)
    found = plan_cleaning(store)
    assert (set(found.entries), found.young) == (names_of(made) if goes else set(), 0 if goes else 1)
    assert set(plan_cleaning(store, days=days + 0.1).entries) == set()
    assert set(plan_cleaning(store, days=days - 0.1).entries) == names_of(made)


def test_an_entry_without_a_readable_record_is_as_old_as_its_files(store: Path, root: Path) -> None:
    register(store, root, [])
    (store / OTHER.name / "entry.json").write_text("{")
    assert OTHER.name not in plan_cleaning(store).entries
    for path in (store / OTHER.name).iterdir():
        os.utime(path, (0, 0))
    os.utime(store / OTHER.name, (0, 0))
    assert OTHER.name in plan_cleaning(store).entries


def test_a_dry_clean_changes_nothing(store: Path, root: Path) -> None:
    register(store, root, [])
    before = snapshot(store)
    assert set(plan_cleaning(store).entries) == names_of(*ALL)
    assert snapshot(store) == before


def test_clean_leaves_no_trace_of_what_went(store: Path, root: Path) -> None:
    run_naming(root, STUDENT)
    register(store, root, [])
    before = snapshot(store)
    gone = names_of(NETWORK, EMBEDDINGS, RADII)
    sizes = {name: size_of(store / name) for name in gone}
    planned = plan_cleaning(store)
    found = clean(store)
    assert found == planned
    assert (found.entries, found.bytes, found.linked) == (sizes, sum(sizes.values()), 0)
    after = snapshot(store)
    assert {key: value for key, value in after.items() if key != ROOTS} == {
        key: value for key, value in before.items() if key != ROOTS and "/".join(key.split("/")[:2]) not in gone
    }
    assert list((store / "work").iterdir()) == []


def test_a_folder_that_cannot_be_read_keeps_what_it_told(store: Path, root: Path) -> None:
    register(store, root, [EMBEDDINGS.name])
    shutil.rmtree(root)
    found = plan_cleaning(store)
    assert set(found.entries) == names_of(OTHER, STUDENT)
    assert found.notes == (
        f"{root}: can't be read; the 1 entries that it named stay",
        f"  if it is gone for good: dire-plug clean --forget {root} --yes",
    )


def test_an_empty_mount_point_is_not_taken_for_a_folder_without_runs(store: Path, root: Path) -> None:
    register(store, root, [EMBEDDINGS.name])
    (root / MARK).unlink()
    assert root.is_dir()
    assert set(plan_cleaning(store, more=[root]).entries) == names_of(OTHER, STUDENT)


def test_a_folder_in_which_one_cannot_be_read_keeps_what_it_told(
    store: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = run_naming(root, EMBEDDINGS).parent
    register(store, root, [EMBEDDINGS.name])
    scan = os.scandir

    def scan_some(folder: Path) -> Any:
        if folder == closed:
            raise PermissionError(13, "Permission denied", str(folder))
        return scan(folder)

    monkeypatch.setattr(os, "scandir", scan_some)
    assert set(plan_cleaning(store).entries) == names_of(OTHER, STUDENT)


def test_everything_stays_where_a_folder_never_told_what_it_names(store: Path, root: Path) -> None:
    write_json(store / ROOTS, {str(root): {"names": None}})
    found = clean(store)
    assert (found.entries, names(store)) == ({}, names_of(*ALL))
    assert found.notes == (f"{root}: can't be read, and what its runs name isn't known, so every entry stays",)


@pytest.mark.parametrize("content", [None, "[]", "{"])
def test_everything_stays_where_a_run_does_not_tell_what_it_names(store: Path, root: Path, content: str | None) -> None:
    register(store, root, [])
    run = run_naming(root, EMBEDDINGS)
    if content is None:
        (run / "artefacts.json").unlink()
    else:
        (run / "artefacts.json").write_text(content)
    found = clean(store)
    assert (found.entries, names(store)) == ({}, names_of(*ALL))
    (words,) = found.notes
    assert words.startswith(str(run))
    assert words.endswith("until then every entry stays")


def test_a_run_that_has_just_been_begun_counts(store: Path, root: Path) -> None:
    register(store, root, [])
    (run_naming(root, EMBEDDINGS) / "status.json").unlink()
    assert EMBEDDINGS.name not in plan_cleaning(store).entries


def test_runs_of_the_home_count_without_being_registered(store: Path, root: Path) -> None:
    run_naming(root, EMBEDDINGS)
    assert EMBEDDINGS.name in plan_cleaning(store).entries
    assert EMBEDDINGS.name not in plan_cleaning(store, more=[root]).entries


def test_a_damaged_list_of_folders_removes_nothing(store: Path) -> None:
    write(store / ROOTS, "[]")
    with pytest.raises(DirePlugError, match="holds no folders of runs"):
        clean(store)
    assert names(store) == names_of(*ALL)


def test_after_a_clean_a_folder_is_remembered_by_the_runs_that_it_has_now(store: Path, root: Path) -> None:
    run_naming(root, EMBEDDINGS)
    register(store, root, [EMBEDDINGS.name, STUDENT.name])
    plan_cleaning(store)
    assert read_json(store / ROOTS) == {str(root): {"names": sorted(names_of(EMBEDDINGS, STUDENT))}}
    clean(store)
    assert read_json(store / ROOTS) == {str(root): {"names": [EMBEDDINGS.name]}}


def test_an_entry_that_a_process_holds_stays(store: Path, root: Path) -> None:
    register(store, root, [])
    with hold(lease_of(store, OTHER.name), what="the entry"):
        found = clean(store)
    assert set(found.entries) == names_of(NETWORK, EMBEDDINGS, RADII, STUDENT)
    assert names(store) == names_of(OTHER)
    assert found.notes == (f"{OTHER.name}: stays, since process {os.getpid()} on {socket.gethostname()} holds it",)


def test_an_entry_that_was_taken_since_clean_looked_stays(
    store: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(store, root, [])
    monkeypatch.setattr(cleaning, "holder", lambda _path: None)
    with hold(lease_of(store, OTHER.name), what="the entry"):
        found = clean(store)
    assert names(store) == names_of(OTHER)
    assert found.notes[0].startswith(f"stays: {OTHER.name} is held by process {os.getpid()}")


def test_no_run_can_begin_while_entries_are_moved_away(
    store: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(store, root, [])
    move, held = os.rename, []

    def look(source: Path, target: Path) -> None:
        held.append((store / "leases" / "roots.lease").is_file())
        move(source, target)

    monkeypatch.setattr(os, "rename", look)
    clean(store)
    assert held == [True] * len(ALL)


def test_files_that_runs_keep_free_no_space(store: Path, root: Path) -> None:
    register(store, root, [])
    root.mkdir(exist_ok=True)
    os.link(store / OTHER.name / "file", root / "kept")
    total = sum(size_of(store / one.name) for one in ALL)
    found = clean(store)
    assert (found.bytes, found.linked) == (total - len(OTHER.name), len(OTHER.name))
    assert (root / "kept").read_text() == OTHER.name


# Unfinished work and leases.


def test_old_work_that_nobody_holds_goes(store: Path, root: Path) -> None:
    run_naming(root, *ALL)
    register(store, root, [])
    for name in ("network-aa", "labels-bb", "student-cc", "pass-dd"):
        write(store / "work" / name / "deep" / "file", "12345")
        age(store / "work" / name, days=8)
    os.utime(store / "work" / "labels-bb" / "deep" / "file")  # somebody writes there
    with hold(store / "leases" / "student-cc.lease", what="it"), hold(store / "leases" / "pass-ee.lease", what="it"):
        found = clean(store)
    assert [path.name for path in found.folders] == ["network-aa"]
    assert sorted(path.name for path in (store / "work").iterdir()) == ["labels-bb", "pass-dd", "student-cc"]
    # a pass is worked on under its synthesis's lease
    who = f"process {os.getpid()} on {socket.gethostname()}"
    assert found.notes == tuple(f"work/{name}: stays, since {who} may work on it" for name in ("pass-dd", "student-cc"))
    assert found.bytes == 5
    assert [path.name for path in clean(store).folders] == ["pass-dd", "student-cc"]


def test_work_stays_for_as_long_as_the_user_says(store: Path, root: Path) -> None:
    register(store, root, [])
    write(store / "work" / "network-aa" / "file", "")
    age(store / "work" / "network-aa", days=8)
    assert [len(plan_cleaning(store, days=days).folders) for days in (7.9, 8.1)] == [1, 0]


def test_folders_of_jobs_go_after_a_month(store: Path, root: Path) -> None:
    old = time.time() - 31 * 86400
    for name in ("recover-0123456789ab", "recover-young"):
        make_folder(store / "jobs" / name)
        (store / "jobs" / name / "log.txt").write_text("made")
    for path in (store / "jobs" / "recover-0123456789ab" / "log.txt", store / "jobs" / "recover-0123456789ab"):
        os.utime(path, (old, old))
    assert clean(store, more=[root]).folders == (store / "jobs" / "recover-0123456789ab",)
    assert [path.name for path in (store / "jobs").iterdir()] == ["recover-young"]


@pytest.mark.parametrize("made", [False, True])
def test_what_an_unfinished_job_needs_stays_whatever_runs_name(store: Path, root: Path, made: bool) -> None:
    register(store, root, [])
    unit = {"makes": [STUDENT.name if made else "student/not-yet"], "needs": [OTHER.name]}
    make_folder(store / "jobs" / "evaluate-0123456789ab")
    write_json(store / "jobs" / "evaluate-0123456789ab" / "unit.json", unit)
    assert (OTHER.name in plan_cleaning(store).entries) == made


def test_statistics_that_no_run_has_read_for_a_week_go(store: Path, root: Path) -> None:
    make_folder(store / "listings")
    for name in ("old", "new"):
        write(store / "listings" / f"statistics-{name}.json", "[]")
    os.utime(store / "listings" / "statistics-old.json", (0, 0))
    clean(store)
    assert [path.name for path in (store / "listings").iterdir()] == ["statistics-new.json"]


def test_listings_go_with_their_dataset(store: Path, root: Path, tmp_path: Path) -> None:
    register(store, root, [])
    for name in ("there", "gone"):
        make_folder(store / "listings" / name)
        write_json(store / "listings" / name / "all.json", {"root": str(tmp_path / name)})
        age(store / "listings" / name, days=8)
    (tmp_path / "there").mkdir()
    assert plan_cleaning(store).folders == (store / "listings" / "gone",)


def test_decoded_images_of_two_copies_of_a_dataset_go_together(store: Path, root: Path, tmp_path: Path) -> None:
    register(store, root, [])
    for name in ("one", "two"):
        make_folder(tmp_path / name)
        write(store / "listings" / name / "all.json", json.dumps({"root": str(tmp_path / name)}))
        write(store / "listings" / name / "pixels-0a1b-2" / "file", "pixels")
        age(store / "listings" / name / "pixels-0a1b-2", days=8)
    assert [path.parent.name for path in clean(store).folders] == ["one", "two"]
    assert list((store / "listings").glob("*/pixels-*")) == []


def test_what_an_interrupted_clean_or_replacement_left_goes(store: Path, root: Path) -> None:
    register(store, root, [])
    write(store / "work" / ".removed-x" / "file", "")
    write(store / "network" / ".aa.bb" / "file", "")
    age(store / "network" / ".aa.bb", days=8)
    write(store / "network" / ".cc.dd" / "file", "")  # may be in use
    found = clean(store)
    assert [path.name for path in found.folders] == [".removed-x", ".aa.bb"]
    assert [path.name for path in (store / "network").glob(".*")] == [".cc.dd"]


def test_leases_of_dead_processes_go_with_the_files_behind_them(store: Path, root: Path) -> None:
    register(store, root, [])
    lease = store / "leases" / "network-aa.lease"
    code = (
        "import os, pathlib, dire_plug.store.lease as leases\n"
        f"with leases.hold(pathlib.Path({str(lease)!r}), what='x'): os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert list((store / "leases").iterdir()) == [lease]
    # what is left where a process dies while it takes a lease, and while it takes one over
    dead = read_json(lease)
    alone = lease.with_name(f"network-bb.lease.{dead['host']}.{dead['pid']}.{dead['use']}")
    halfway = lease.with_name("network-aa.lease.break")
    for path in (alone, halfway):
        shutil.copyfile(lease, path)
    with hold(store / "leases" / "network-dd.lease", what="x") as live:
        assert set(plan_cleaning(store).leases) == {lease, alone, halfway}
        assert set(clean(store).leases) == {lease, alone, halfway}
        assert list((store / "leases").iterdir()) == [live.path]


def test_leases_of_runs_go_too(store: Path, root: Path) -> None:
    run_naming(root, OTHER)
    register(store, root, [])
    folder = next(root.glob("*/*"))
    holder = {"host": "elsewhere", "boot": "b", "namespace": "n", "pid": 1, "started": "1", "use": "u"}
    left = [folder / ".baseline-0-aa.lease", folder.parent / ".set-aa.lease"]
    for path in left:
        write_json(path, holder)
        age(path, days=1)
    other = write(folder / "notes", "mine")
    age(other, days=1)
    with hold(folder / ".baseline-0-bb.lease", what="x") as live:
        assert set(clean(store).leases) == set(left)
        assert list(root.rglob("*.lease*")) == [live.path]
    assert other.is_file()


def test_leases_of_other_hosts_go_when_they_have_expired(store: Path, root: Path) -> None:
    register(store, root, [])
    holder = {"host": "elsewhere", "boot": "b", "namespace": "n", "pid": 1, "started": "1", "use": "u"}
    fresh, expired, alone, cut = (
        store / "leases" / name
        for name in ("network-aa.lease", "network-bb.lease", "network-cc.lease.elsewhere.1.u", "network-dd.lease.x.1.v")
    )
    for path in (fresh, expired, alone):
        write_json(path, holder)
    cut.write_text("")  # killed before it had written who it was
    for path in (expired, alone, cut):
        age(path, days=1)
    assert set(plan_cleaning(store).leases) == {expired, alone, cut}
    clean(store)
    assert list((store / "leases").iterdir()) == [fresh]


def test_a_lease_that_was_taken_over_since_clean_looked_stays(
    store: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register(store, root, [])
    with hold(store / "leases" / "network-aa.lease", what="x"):
        live = set((store / "leases").iterdir())
        monkeypatch.setattr(cleaning, "find_left", lambda folder: sorted(folder.glob("network-aa*")))
        clean(store)
        assert set((store / "leases").iterdir()) == live


# The commands that show and clean.


def test_artefacts_are_listed_with_how_they_were_made_and_in_how_many_runs(cli: Cli, own_home: Path) -> None:
    answer = cli("list", "artefacts", "--all")
    assert answer.code == 0
    rows = [row for row in read_rows(answer.out) if len(row) == 8]
    assert rows[0] == ["kind", "digest", "size", "runs", "made", "torch", "threads", "device"]
    entries = read_entries(own_home / "store")
    named = read_json(only_run(own_home) / "artefacts.json")
    assert rows[1:] == [
        [
            one.kind,
            one.path.name,
            format_bytes(size_of(one.path)),
            "1" if name in named else "0",
            one.made["when"],
            one.made["versions"]["torch"],
            str(one.made["hardware"]["threads"]),
            "cpu",
        ]
        for name, one in entries.items()
    ]
    assert [row[0] for row in rows[1:]] == sorted((row[0] for row in rows[1:]), key=KINDS.index)
    assert answer.out.splitlines()[-1].startswith(f"{len(entries)} artefacts, ")


def test_artefacts_are_counted_by_kind(cli: Cli, own_home: Path) -> None:
    answer = cli("list", "artefacts")
    entries = read_entries(own_home / "store").values()
    kinds = [kind for kind in KINDS if any(one.kind == kind for one in entries)]
    rows = [row for row in read_rows(answer.out) if len(row) == 4]
    assert [row[:3] for row in rows[1:]] == [
        [kind, str(sum(one.kind == kind for one in entries)), "0"] for kind in kinds
    ]
    assert answer.out.splitlines()[-1].endswith("; each by itself: --kind KIND, or --all")


def test_only_the_kind_that_is_asked_for_is_listed(cli: Cli, own_home: Path) -> None:
    answer = cli("list", "artefacts", "--kind", "network")
    assert [row[0] for row in read_rows(answer.out) if len(row) == 8] == ["kind", "network", "network"]
    assert answer.out.splitlines()[-1].startswith("2 artefacts, ")
    assert cli("list", "artefacts", "--kind", "labels").out == (
        f"{own_home}/store: holds no artefact of kind labels yet; runs leave them there: dire-plug run sre2l --dire\n"
    )


def test_an_empty_store_says_so(cli: Cli, bare_home: Path) -> None:
    words = f"{bare_home}/store: holds no artefact yet; runs leave them there: dire-plug run sre2l --dire\n"
    assert cli("list", "artefacts").out == words
    assert cli("clean", "--yes").out == (
        "removed: 0 artefacts, 0 unfinished folders, 0 expired leases; 0 B\n"
        "kept: 0 that runs name, 0 younger than 7 days\n"
    )
    assert not bare_home.exists()


def test_runs_have_no_kind(cli: Cli, bare_home: Path) -> None:
    answer = cli("list", "runs", "--kind", "network")
    assert (answer.code, answer.err) == (
        2,
        "error: --kind network: only artefacts are filtered by it; write `dire-plug list artefacts`\n",
    )


def test_clean_says_what_would_go_and_yes_removes_it(
    cli: Cli, store: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIRE_PLUG_HOME", str(tmp_path))
    run_naming(root, EMBEDDINGS)
    make(store, Artefact("subset", {}))
    write(store / "work" / "network-aa" / "file", "")
    age(store / "work" / "network-aa", days=8)
    sizes = {one.name: size_of(store / one.name) for one in (OTHER, STUDENT)}
    lines = [*(f"{name}  {format_bytes(size)}" for name, size in sizes.items()), "work/network-aa"]
    counts = f"2 artefacts, 1 unfinished folder, 0 expired leases; {format_bytes(sum(sizes.values()))}"
    stay = "kept: 3 that runs name, 1 younger than 7 days"
    dry = cli("clean")
    assert dry.out.splitlines() == [
        *lines,
        f"would be removed: {counts}",
        stay,
        "nothing was removed; --yes removes it",
    ]
    wet = cli("clean", "--yes")
    assert wet.out.splitlines() == [*lines, f"removed: {counts}", stay]
    assert (dry.code, wet.code) == (0, 0)
    assert names(store) == names_of(NETWORK, EMBEDDINGS, RADII, Artefact("subset", {}))
    assert "would be removed: 1 artefact, " in cli("clean", "--older-than", "0").out


def test_a_folder_that_is_gone_for_good_is_forgotten_when_told(
    cli: Cli, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIRE_PLUG_HOME", str(tmp_path))
    old = tmp_path / "old"
    register(store, old, names_of(*ALL))
    assert "the folder is still there" in cli("clean", "--yes", "--forget", old).err
    shutil.rmtree(old)
    assert cli("clean", "--forget", old).code == 2
    assert cli("clean", "--yes", "--forget", tmp_path / "odl").err == (
        f"error: --forget {tmp_path}/odl: no such folder of runs is registered; registered: {old}\n"
    )
    assert names(store) == names_of(*ALL)
    assert cli("clean", "--yes", "--forget", old).code == 0
    assert names(store) == set()


def test_what_shows_cleans_and_hands_on_the_store_needs_no_torch(store: Path, archived: Path, tmp_path: Path) -> None:
    lines = [
        ["list", "artefacts"],
        ["clean", "--yes"],
        ["export", OTHER.name, "--to", str(tmp_path / "b.tar")],
        ["import", str(archived)],
        *([name, "--help"] for name in ("clean", "export", "import")),
    ]
    code = (
        "import sys\nfrom dire_plug.cli import main\n"
        f"for line in {lines!r}:\n"
        "    try:\n        main(line)\n    except SystemExit as end:\n        assert end.code == 0, line\n"
        "    assert not {'torch', 'numpy', 'scipy'} & sys.modules.keys(), line\n"
    )
    run_naming(tmp_path / "runs", *ALL)
    environment = {**os.environ, "DIRE_PLUG_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


# Archives.


@pytest.fixture(scope="session")
def exported(finished: Path, baseline: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of the finished run."""
    target = tmp_path_factory.mktemp("archives") / "run.tar"
    write_archive(finished / "store", target, names=(), runs={f"sre2l/tiny/{baseline.name}": RunFolder(baseline)})
    return target


def test_after_an_import_the_same_run_synthesizes_and_trains_nothing(
    cli: Cli, bare_home: Path, exported: Path, recipe: Path, baseline: Path
) -> None:
    assert cli("import", exported).code == 0
    before = snapshot(bare_home / "store")
    answer = cli("run", "sre2l", "--recipe", recipe, "--engine", "native")
    assert answer.code == 0
    after = snapshot(bare_home / "store")
    del after[ROOTS]
    assert after == before  # not one entry was made, or made again
    assert outcome(only_run(bare_home)) == outcome(baseline)


def test_an_archive_says_what_is_in_it(exported: Path, finished: Path, baseline: Path) -> None:
    with tarfile.open(exported) as tar:
        content = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    card = json.loads(content.pop("card.json"))
    readme = content.pop("README.md").decode()
    run = f"sre2l/tiny/{baseline.name}"
    named = read_json(baseline / "artefacts.json")
    assert (card["format"], card["version"], card["kinds"], card["missing"]) == ("dire-plug artefacts", 1, [], [])
    assert card["entries"].keys() == named.keys()
    assert {name: entry["roles"] for name, entry in card["entries"].items()} == {
        name: [role] for name, role in named.items()
    }
    for name, entry in card["entries"].items():
        record = read_json(finished / "store" / name / "entry.json")
        assert (entry["content"], entry["made"], entry["inputs"]) == (
            record["content"],
            record["made"],
            record["inputs"],
        )
        for part in (name, record["content"], record["made"]["when"], record["made"]["versions"]["torch"]):
            assert part in readme
    assert run in readme
    files = {
        f"artefacts/{name}/{file}": facts
        for name, one in card["entries"].items()
        for file, facts in one["files"].items()
    }
    files |= {f"runs/{run}/{file}": facts for file, facts in card["runs"][run]["files"].items()}
    assert content.keys() == files.keys()
    for path, facts in files.items():
        assert len(content[path]) == facts["bytes"]
        assert hashlib.sha256(content[path]).hexdigest() == facts["sha256"]
    for file in ("recipe.yaml", "metrics.json", "artefacts.json"):
        assert content[f"runs/{run}/{file}"] == (baseline / file).read_bytes()
    for name in named:
        for path in (finished / "store" / name).rglob("*"):
            if path.is_file():
                assert content[f"artefacts/{path.relative_to(finished / 'store')}"] == path.read_bytes()


def test_the_same_entries_give_the_same_archive_wherever_it_is_written(
    tmp_path: Path, finished: Path, baseline: Path, exported: Path, bare_home: Path
) -> None:
    runs = {f"sre2l/tiny/{baseline.name}": RunFolder(baseline)}
    read_archive(bare_home / "store", exported)
    write_archive(bare_home / "store", tmp_path / "run.tar", names=(), runs=runs)
    assert (tmp_path / "run.tar").read_bytes() == exported.read_bytes()


def test_an_entry_is_exported_with_what_it_is_made_from_and_nothing_else(store: Path, tmp_path: Path) -> None:
    card = write_archive(store, tmp_path / "a.tar", names=[RADII.name], runs={})
    assert list(card.entries) == [NETWORK.name, EMBEDDINGS.name, RADII.name]
    card = write_archive(store, tmp_path / "b.tar", names=[RADII.name, OTHER.name], runs={}, kinds=["network"])
    assert set(card.entries) == names_of(NETWORK, OTHER)
    assert card.kinds == ["network"]


def test_what_the_store_lacks_is_told(store: Path, tmp_path: Path) -> None:
    shutil.rmtree(store / NETWORK.name)
    card = write_archive(store, tmp_path / "a.tar", names=[EMBEDDINGS.name], runs={})
    assert (list(card.entries), card.missing) == ([EMBEDDINGS.name], [NETWORK.name])


@pytest.mark.parametrize("how", ["another", "longer", "more", "less"])
def test_a_damaged_entry_is_not_exported_and_no_file_is_left(store: Path, tmp_path: Path, how: str) -> None:
    file = store / NETWORK.name / "file"
    file.chmod(0o644)
    content = file.read_text()
    if how == "less":
        file.unlink()
    elif how == "more":
        (file.parent / "more").write_text("")
    else:
        file.write_text(content[:-1] + "x" if how == "another" else content + "x")
    (tmp_path / "archives").mkdir()
    with pytest.raises(DirePlugError, match="was damaged, or edited; run the command that made it again, then export"):
        write_archive(store, tmp_path / "archives" / "a.tar", names=[EMBEDDINGS.name], runs={})
    assert list((tmp_path / "archives").iterdir()) == []


def test_export_takes_runs_and_digests_and_says_what_it_wrote(cli: Cli, own_home: Path, tmp_path: Path) -> None:
    network = next(name for name in names(own_home / "store") if name.startswith("network/"))
    answer = cli(
        "export", "baseline-0", network[:14], "--only", "network", "--only", "student", "--to", tmp_path / "a.tar"
    )
    assert (answer.code, answer.err) == (0, "")
    assert [row[:2] for row in read_rows(answer.out) if len(row) == 3][1:] == [["network", "2"], ["student", "1"]]
    size = format_bytes((tmp_path / "a.tar").stat().st_size)
    assert answer.out.splitlines()[-2:] == [
        f"stored in: {tmp_path}/a.tar (3 artefacts, {size})",
        "there:     dire-plug import a.tar",
    ]
    again = cli("export", "baseline-0", "--to", tmp_path / "a.tar")
    assert (again.code, again.err) == (
        2,
        f"error: {tmp_path}/a.tar: already exists; remove it, or give --to another name\n",
    )


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("dire-0", "'dire-0' names 0 runs below "),
        ("network/zz", "network/zz: write it as network/DIGEST, as `dire-plug list artefacts --kind network` shows it"),
        ("labels/aa", "labels/aa: names 0 artefacts in "),
    ],
)
def test_export_of_what_is_not_there_says_where_to_look(
    cli: Cli, own_home: Path, tmp_path: Path, what: str, words: str
) -> None:
    answer = cli("export", what, "--to", tmp_path / "a.tar")
    assert answer.code == 2
    assert words in answer.err
    assert not (tmp_path / "a.tar").exists()


def test_a_digest_that_is_too_short_names_several(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIRE_PLUG_HOME", str(tmp_path))
    made = [Artefact("network", {"seed": seed}) for seed in range(17)]  # two of them begin alike
    make(tmp_path / "store", *made)
    starts = [one.name[:9] for one in made]
    start = next(one for one in starts if starts.count(one) > 1)
    assert f"{start}: names {starts.count(start)} artefacts" in cli("export", start, "--to", tmp_path / "a.tar").err


# Reading archives.


@pytest.fixture
def archived(store: Path, tmp_path: Path) -> Path:
    """An archive of the embeddings and of their network."""
    write_archive(store, tmp_path / "a.tar", names=[EMBEDDINGS.name], runs={})
    return tmp_path / "a.tar"


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """Another store, which isn't there yet."""
    return tmp_path / "other" / "store"


def outcomes(imported: tuple[archive.Card, list[archive.Arrival], list[str]]) -> dict[str, str]:
    return {one.name: one.what for one in imported[1]}


def is_clear(store: Path) -> bool:
    """Tell whether neither entries nor unfinished things are in a store."""
    return not [path for path in store.rglob("*") if path.is_file()] and not list(store.glob("work/*"))


def test_imported_entries_are_those_that_were_exported(store: Path, other: Path, archived: Path) -> None:
    found = read_archive(other, archived)
    assert outcomes(found) == {NETWORK.name: "imported", EMBEDDINGS.name: "imported"}
    assert names(other) == names_of(NETWORK, EMBEDDINGS)
    for name in names(other):
        ours, theirs = (read_json(folder / name / "entry.json") for folder in (other, store))
        assert ours.pop("imported")["archive"] == "a.tar"
        assert ours == theirs
        assert (other / name / "file").read_bytes() == (store / name / "file").read_bytes()
        assert (other / name / "file").stat().st_mode & 0o777 == 0o444
    assert Store(other).find(EMBEDDINGS) == other / EMBEDDINGS.name
    assert list((other / "work").iterdir()) == list((other / "leases").iterdir()) == []


def test_what_was_just_imported_stays_however_long_ago_it_was_made(other: Path, archived: Path, root: Path) -> None:
    read_archive(other, archived)
    register(other, root, [])
    assert plan_cleaning(other).entries == {}
    assert plan_cleaning(other).young == 2


def test_what_is_there_with_the_same_content_is_left_alone(other: Path, archived: Path) -> None:
    make(other, NETWORK)
    before = snapshot(other / "network")
    assert outcomes(read_archive(other, archived)) == {NETWORK.name: "the same", EMBEDDINGS.name: "imported"}
    assert snapshot(other / "network") == before


def test_ours_stays_where_contents_differ_without_what_needs_theirs(other: Path, archived: Path) -> None:
    make(other, NETWORK, content="ours")
    before = snapshot(other / "network")
    _, arrivals, _ = read_archive(other, archived)
    assert [(one.name, one.what, one.why) for one in arrivals] == [
        (NETWORK.name, "kept ours", "its content differs; --replace takes theirs"),
        (EMBEDDINGS.name, "left out", f"made from another {NETWORK.name} than the one that is here"),
    ]
    assert snapshot(other / "network") == before
    assert names(other) == names_of(NETWORK)


def test_what_is_made_from_something_left_out_is_left_out_too(store: Path, other: Path, tmp_path: Path) -> None:
    write_archive(store, tmp_path / "a.tar", names=[RADII.name], runs={})
    make(other, NETWORK, content="ours")
    assert outcomes(read_archive(other, tmp_path / "a.tar"))[RADII.name] == "left out"


def test_an_entry_whose_input_is_not_in_the_archive_is_held_against_ours(
    store: Path, other: Path, tmp_path: Path
) -> None:
    write_archive(store, tmp_path / "a.tar", names=[EMBEDDINGS.name], runs={}, kinds=["embeddings"])
    assert outcomes(read_archive(tmp_path / "third", tmp_path / "a.tar")) == {EMBEDDINGS.name: "imported"}
    make(other, NETWORK, content="ours")
    assert outcomes(read_archive(other, tmp_path / "a.tar")) == {EMBEDDINGS.name: "left out"}


def test_replace_takes_theirs_and_says_what_is_outdated(other: Path, archived: Path) -> None:
    make(other, NETWORK, content="ours")
    make(other, further := Artefact("subset", {}, {"network": NETWORK}))
    found = read_archive(other, archived, replace=True)
    assert outcomes(found) == {NETWORK.name: "replaced", EMBEDDINGS.name: "imported"}
    assert (other / NETWORK.name / "file").read_text() == NETWORK.name
    assert found[2] == [further.name]
    assert Store(other).find(further) is None
    assert not list((other / "network").glob(".*"))


def test_a_damaged_one_of_ours_is_mended(other: Path, archived: Path) -> None:
    make(other, NETWORK)
    (other / NETWORK.name / "file").chmod(0o644)
    (other / NETWORK.name / "file").write_text("damaged")
    assert outcomes(read_archive(other, archived))[NETWORK.name] == "imported"
    assert Store(other).find(NETWORK) is not None


def test_an_entry_is_seen_whole_or_not_at_all(other: Path, archived: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Path] = []

    def fail_second(folder: Path, entry: Path, *, instead_of: int | None) -> bool:
        seen.append(entry)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return put(folder, entry, instead_of=instead_of)

    monkeypatch.setattr(archive, "put", fail_second)
    with pytest.raises(KeyboardInterrupt):
        read_archive(other, archived)
    assert names(other) == names_of(NETWORK)  # what others are made from comes first
    assert Store(other).find(NETWORK) is not None
    assert list((other / "work").iterdir()) == list((other / "leases").iterdir()) == []


def test_what_another_process_made_in_the_meantime_stays(
    other: Path, archived: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    space = shutil.disk_usage

    def meanwhile(path: Path) -> Any:
        make(other, NETWORK, content="ours")
        return space(path)

    monkeypatch.setattr(shutil, "disk_usage", meanwhile)
    _, (first, _), _ = read_archive(other, archived)
    assert (first.what, first.why) == ("kept ours", "made here in the meantime")
    assert (other / NETWORK.name / "file").read_text() == "ours"


def test_an_archive_that_does_not_fit_on_the_disk_is_refused(
    other: Path, archived: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=10))
    with pytest.raises(DirePlugError, match=r"needs .* in .*, and 10 B are free"):
        read_archive(other, archived)
    assert is_clear(other)


Members = list[tuple[tarfile.TarInfo, bytes]]


def rewrite(path: Path, change: Callable[[Members], Any], *, mode: str = "w") -> None:
    """Write an archive anew with its members changed."""
    with tarfile.open(path) as tar:
        members = [(member, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
    change(members)
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for member, content in members:
            tar.addfile(member, io.BytesIO(content) if member.isreg() else None)


def find(members: Members, end: str) -> int:
    return next(number for number, (member, _) in enumerate(members) if member.name.endswith(end))


def member(name: str, content: bytes = b"", *, type: bytes = tarfile.REGTYPE, target: str = "") -> Any:
    found = tarfile.TarInfo(name)
    found.size, found.type, found.linkname = len(content), type, target
    return found, content


def replaced(members: Members, end: str, content: bytes) -> None:
    number = find(members, end)
    members[number] = member(members[number][0].name, content)


def edit_card(change: Callable[[dict[str, Any]], Any]) -> Callable[[Members], None]:
    def edit(members: Members) -> None:
        card = json.loads(members[0][1])
        change(card)
        replaced(members, "card.json", json.dumps(card).encode())

    return edit


def edit_record(change: Callable[[dict[str, Any]], Any]) -> Callable[[Members], None]:
    """Change the network's entry.json, and the card so that it knows no better."""

    def edit(members: Members) -> None:
        name = f"artefacts/{NETWORK.name}/entry.json"
        record = json.loads(members[find(members, name)][1])
        change(record)
        content = json.dumps(record).encode()
        replaced(members, name, content)
        facts = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        edit_card(lambda card: card["entries"][NETWORK.name]["files"].update({"entry.json": facts}))(members)

    return edit


def rename_in_card(old: str, new: str) -> Callable[[Members], None]:
    """Give an entry another name, in the card and to its files."""

    def edit(members: Members) -> None:
        edit_card(lambda card: card["entries"].update({new: card["entries"].pop(old)}))(members)
        for one, _ in members:
            one.name = one.name.replace(f"artefacts/{old}/", f"artefacts/{new}/")

    return edit


def rename_file(new: str) -> Callable[[Members], None]:
    """Give the network's file another name, in the card, in entry.json and to itself."""

    def rename(files: dict[str, Any]) -> None:
        files[new] = files.pop("file")

    def edit(members: Members) -> None:
        def change(record: dict[str, Any]) -> None:
            rename(record["files"])
            record["content"] = digest(record["files"])

        edit_record(change)(members)
        content = json.loads(members[find(members, f"{NETWORK.name}/entry.json")][1])["content"]

        def of_card(card: dict[str, Any]) -> None:
            rename(card["entries"][NETWORK.name]["files"])
            card["entries"][NETWORK.name]["content"] = content

        edit_card(of_card)(members)
        members[find(members, f"{NETWORK.name}/file")][0].name = f"artefacts/{NETWORK.name}/{new}"

    return edit


def damage(members: Members) -> None:
    number = find(members, f"{NETWORK.name}/file")
    replaced(members, f"{NETWORK.name}/file", members[number][1][:-1] + b"x")


def linked(kind: bytes) -> Callable[[Members], None]:
    def edit(members: Members) -> None:
        number = find(members, f"{NETWORK.name}/file")
        members[number] = member(members[number][0].name, type=kind, target="/etc/passwd")

    return edit


REFUSED: dict[str, tuple[Callable[[Members], Any], str]] = {
    "a file above": (lambda found: found.append(member("../above")), "../above: leads out of the archive"),
    "a file from the root": (lambda found: found.append(member("/tmp/x")), "/tmp/x: leads out of the archive"),
    "an entry's file above": (rename_file("../../../above"), "a file's name leads out of it"),
    "an entry's file from the root": (rename_file("/above"), "a file's name leads out of it"),
    "an entry's file with a backslash": (rename_file("..\\above"), "a file's name leads out of it"),
    "an entry's file that moves the cursor": (rename_file("\x1b[2J"), "a file's name leads out of it"),
    "a run above": (
        edit_card(lambda card: card["runs"].update({"../x": {"state": "finished", "files": {}}})),
        "'../x' is no run of an archive",
    ),
    "a run's file": (
        edit_card(
            lambda card: card["runs"].update(
                {"x": {"state": "finished", "files": {"log.txt": {"bytes": 0, "sha256": "0" * 64}}}}
            )
        ),
        "'x' is no run of an archive",
    ),
    "an entry in leases": (
        rename_in_card(NETWORK.name, f"leases/{NETWORK.name[8:]}"),
        "is no name of an entry that this",
    ),
    "an entry above": (
        rename_in_card(NETWORK.name, "network/../x"),
        "is no name of an entry that this dire-plug knows",
    ),
    "an entry of another name": (
        rename_in_card(NETWORK.name, f"network/{'0' * 20}"),
        "entry.json contradicts what decided it; the file was damaged or edited",
    ),
    "a symbolic link": (linked(tarfile.SYMTYPE), "file: is no plain file"),
    "a hard link": (linked(tarfile.LNKTYPE), "file: is no plain file"),
    "a device": (linked(tarfile.CHRTYPE), "file: is no plain file"),
    "a pipe": (linked(tarfile.FIFOTYPE), "file: is no plain file"),
    "a folder": (lambda found: found.append(member("artefacts", type=tarfile.DIRTYPE)), "artefacts: is no plain file"),
    "a file that the card lacks": (lambda found: found.append(member("more")), "more: isn't in its card"),
    "a file twice": (lambda found: found.append(found[1]), "README.md: is in it twice"),
    "a file that is missing": (lambda found: found.pop(), "which is in its card; get the file again"),
    "a larger file": (
        lambda found: replaced(found, f"{NETWORK.name}/file", b"x" * 29),
        "file: has 29 bytes, and 28 in its card",
    ),
    "a damaged file": (damage, f"{NETWORK.name}/file: has another sha256 than its entry.json says"),
    "another format": (edit_card(lambda card: card.update(format="tar")), "card.json names another format"),
    "a later version": (edit_card(lambda card: card.update(version=2)), "is of version 2 of the format"),
    "no card": (lambda found: found.pop(0), "its first file isn't card.json"),
    "nothing": (lambda found: found.clear(), "its first file isn't card.json"),
    "a card that is no JSON": (lambda found: replaced(found, "card.json", b"{"), "card.json cannot be read as JSON"),
    "a card that nests too deep": (
        lambda found: replaced(found, "card.json", b"[" * 200_000),
        "card.json cannot be read as JSON",
    ),
    "a card with something else": (edit_card(lambda card: card.update(more=1)), "card.json: more: "),
    "a card of another content": (
        edit_card(lambda card: card["entries"][NETWORK.name].update(content="0" * 64)),
        "entry.json contradicts the digest of its content",
    ),
    "a record of another content": (
        edit_record(lambda record: record.update(content="0" * 64)),
        "entry.json contradicts the digest of its content",
    ),
    "a record of other files": (
        edit_record(lambda record: record.update(files={"file": "0" * 64})),
        "entry.json contradicts its files",
    ),
    "a record of another origin": (
        edit_record(lambda record: record.update(decided_by={"seed": 2})),
        "entry.json contradicts what decided it",
    ),
    "a record that lacks a part": (edit_record(lambda record: record.pop("made")), "entry.json: made: Field required"),
    "a record that was edited": (
        lambda found: replaced(
            found,
            f"{NETWORK.name}/entry.json",
            found[find(found, f"{NETWORK.name}/entry.json")][1].replace(b'"seconds"', b'"Seconds"'),
        ),
        "entry.json contradicts its own sha256",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_an_archive_with_this_is_refused_and_nothing_of_it_is_imported(
    cli: Cli, bare_home: Path, tmp_path: Path, archived: Path, what: str
) -> None:
    change, words = REFUSED[what]
    rewrite(archived, change)
    before = {path for path in tmp_path.rglob("*") if bare_home not in (path, *path.parents)}
    answer = cli("import", archived)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith(f"error: {archived}: ")
    assert words in answer.err
    assert len(answer.err.splitlines()) == 1
    assert is_clear(bare_home)
    assert {path for path in tmp_path.rglob("*") if bare_home not in (path, *path.parents)} == before


def test_a_file_with_holes_is_refused(other: Path, archived: Path) -> None:
    def add(members: Members) -> None:
        one, _ = members[find(members, f"{NETWORK.name}/file")]
        one.pax_headers = {
            "GNU.sparse.major": "0",
            "GNU.sparse.minor": "1",
            "GNU.sparse.map": "0,28",
            "GNU.sparse.size": "28",
        }

    rewrite(archived, add)
    with pytest.raises(DirePlugError, match="is no plain file"):
        read_archive(other, archived)


def test_a_compressed_archive_is_refused(other: Path, archived: Path) -> None:
    rewrite(archived, lambda members: None, mode="w:gz")
    with pytest.raises(DirePlugError, match=r"is no archive of `dire-plug export` that can be read"):
        read_archive(other, archived)


def test_a_card_that_is_too_large_is_not_read(other: Path, archived: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MOST_JSON", 100)
    with pytest.raises(DirePlugError, match="is too large for such a file"):
        read_archive(other, archived)


def test_a_cut_archive_is_refused(other: Path, archived: Path) -> None:
    content = archived.read_bytes()
    for length in (0, 100, 700, len(content) // 2, len(content.rstrip(b"\0")) - 5):
        archived.write_bytes(content[:length])
        with pytest.raises(DirePlugError):
            read_archive(other, archived)
        assert is_clear(other)


def test_import_says_what_became_of_each_entry(cli: Cli, bare_home: Path, archived: Path) -> None:
    make(bare_home / "store", NETWORK, content="ours")
    answer = cli("import", archived)
    assert (answer.code, answer.err) == (0, "")
    rows = [row for row in read_rows(answer.out) if row[0] in names_of(*ALL)]
    assert [row[0] for row in rows] == [NETWORK.name, EMBEDDINGS.name]
    assert "kept ours: its content differs; --replace takes theirs" in rows[0]
    assert answer.out.splitlines()[-1] == f"1 kept ours, 1 left out; 0 B added to {bare_home}/store"
    make(bare_home / "store", Artefact("subset", {}, {"network": NETWORK}))
    answer = cli("import", archived, "--replace")
    assert (
        answer.out.splitlines()[-2]
        == "1 artefact here, made from what was replaced, will be made again when a run needs it"
    )
    assert answer.out.splitlines()[-1].startswith("1 imported, 1 replaced; ")


def test_import_of_a_run_says_how_to_see_its_recipe(cli: Cli, bare_home: Path, exported: Path, baseline: Path) -> None:
    answer = cli("import", exported)
    path = f"runs/sre2l/tiny/{baseline.name}/recipe.yaml"
    assert f"its recipe: tar -xOf {exported} {path}" in answer.out
    done = subprocess.run(["tar", "-xOf", exported, path], capture_output=True, check=True)
    assert done.stdout == (baseline / "recipe.yaml").read_bytes()


# Options of the commands that make runs.


@pytest.fixture
def line(recipe: Path) -> tuple[object, ...]:
    return "run", "sre2l", "--recipe", recipe, "--engine", "native"


def made_again(before: dict[str, tuple[int, bytes]], after: dict[str, tuple[int, bytes]]) -> set[str]:
    """Return the kinds of which an entry.json is another file than before."""
    return {
        path.partition("/")[0]
        for path, (inode, content) in after.items()
        if path.endswith("entry.json") and before.get(path) != (inode, content)
    }


@pytest.mark.parametrize(
    ("stages", "kinds"),
    [
        (["evaluate"], {"student"}),
        (["measure", "embed"], {"embeddings", "radii", "reference", "diversity", "collapse"}),
    ],
)
def test_rerun_makes_again_what_its_stages_left_and_nothing_else(
    cli: Cli, own_home: Path, line: tuple[object, ...], stages: list[str], kinds: set[str]
) -> None:
    before = snapshot(own_home / "store")
    answer = cli(*line, *(word for stage in stages for word in ("--rerun", stage)))
    assert answer.code == 0
    assert "nothing was run" not in answer.out
    assert made_again(before, snapshot(own_home / "store")) == kinds


@pytest.mark.parametrize("command", ["run", "compare", "ablate", "reproduce", "evaluate"])
def test_rerun_of_no_stage_is_refused(cli: Cli, bare_home: Path, command: str) -> None:
    answer = cli(command, "sre2l", "--rerun", "student")
    assert answer.code == 2
    assert "Invalid value for '--rerun': 'student' is not one of 'data', 'squeeze', " in answer.err


def test_without_waiting_a_run_that_another_process_holds_ends_with_75(
    cli: Cli, own_home: Path, line: tuple[object, ...]
) -> None:
    run = RunFolder(only_run(own_home))
    with hold(run.lease, what="it"):
        answer = cli(*line, "--no-wait")
    assert answer.code == 75
    assert answer.err.startswith(f"error: the run {run.path} is held by process {os.getpid()} on ")


def test_without_waiting_an_entry_that_another_process_makes_ends_with_75(
    cli: Cli, own_home: Path, line: tuple[object, ...]
) -> None:
    store = own_home / "store"
    student = next(name for name in names(store) if name.startswith("student/"))
    shutil.rmtree(store / student)
    with hold(lease_of(store, student), what="it"):
        answer = cli(*line, "--no-wait")
    assert answer.code == 75
    assert f"error: the store's entry {student} is held by process {os.getpid()} on " in answer.err


def test_without_waiting_a_set_that_another_process_evaluates_ends_with_75(
    cli: Cli, own_home: Path, recipe: Path, baseline: Path
) -> None:
    command = ("evaluate", baseline / "images", "--recipe", recipe, "--no-wait")
    assert cli(*command).code == 0
    (folder,) = (own_home / "runs" / "sets").iterdir()
    with hold(RunFolder(folder).lease, what="it"):
        assert cli(*command).code == 75


def test_a_busy_run_is_no_empty_cell_of_a_table() -> None:
    def busy() -> Any:
        raise RunBusyError("held")

    with pytest.raises(RunBusyError):
        attempt(busy)


@pytest.mark.parametrize("kept", [True, False])
def test_keep_labels_keeps_the_stored_labels(cli: Cli, own_home: Path, line: tuple[object, ...], kept: bool) -> None:
    answer = cli(*line, "--set", "evaluate.protocol=fkd", *(["--keep-labels"] if kept else []))
    assert answer.code == 0, answer.err
    assert len(list((own_home / "store").glob("labels/*/entry.json"))) == int(kept)


@pytest.fixture
def other_threads(own_home: Path) -> str:
    """How the teachers were made: with more threads than there are here."""
    threads = 0
    for path in (own_home / "store" / "network").glob("*/entry.json"):
        record = read_json(path)
        threads = record["made"]["hardware"]["threads"]
        record["made"]["hardware"]["threads"] = 99
        write_json(path, record)
    return f"reused, made with threads 99 (here {threads}): "


def test_a_run_says_what_it_reuses_that_was_made_otherwise(
    cli: Cli, line: tuple[object, ...], other_threads: str
) -> None:
    answer = cli(*line)
    (note,) = [text.strip() for text in answer.out.splitlines() if "reused, made with" in text]
    assert note.startswith(other_threads)
    assert set(note.removeprefix(other_threads).split(", ")) == {"teacher", "independent"}


def test_a_comparison_says_once_what_its_runs_reuse(recipe: Path, other_threads: str) -> None:
    comparison = compare(Request("sre2l", recipe=str(recipe), engine="native"), arms=["baseline", "random"], seeds=1)
    found = [note for note in table.notes(comparison, 1, pairs={}) if note.startswith("reused")]
    assert len(found) == 1
    assert found[0].startswith(other_threads)
    assert found[0] in stored.to_json(comparison)["notes"]


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (136 * 10**9, "136.0 GB"),
        (5 * 10**15, "5000.0 TB"),
    ],
)
def test_bytes_are_told_in_the_unit_that_people_read(count: int, words: str) -> None:
    assert format_bytes(count) == words
