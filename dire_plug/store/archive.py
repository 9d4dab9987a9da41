"""Write and read archives: entries of the store in one file, for another machine or other people.

An archive is a plain tar of plain files: card.json, a list of its contents, README.md, the same for people,
`artefacts/<kind>/<digest>/…`, and of each run `runs/<method>/<recipe>/<run>/` with its resolved recipe and its metrics.
It has no timestamp of its own, so the same entries give the same bytes.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import io
import json
import os
import re
import shutil
import tarfile
import uuid
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dire_plug.errors import DirePlugError
from dire_plug.files import digest, format_bytes, make_folder, write_json
from dire_plug.store import provenance
from dire_plug.store.artefacts import (
    ENTRY,
    WORK,
    entry_files,
    hash_entry,
    identify,
    lease_of,
    put,
    read_entry,
)
from dire_plug.store.cleaning import KINDS, read_entries, with_inputs
from dire_plug.store.lease import hold
from dire_plug.store.runs import ARTEFACTS, METRICS, RunFolder
from dire_plug.store.schema import Record, Sha256, find_misfit, tell_first
from dire_plug.types.artefact import LENGTH, name_of

FORMAT, VERSION = "dire-plug artefacts", 1
CARD, README = "card.json", "README.md"
ENTRIES, RUNS = "artefacts", "runs"
OF_RUN = ("recipe.yaml", METRICS, ARTEFACTS)
"""Files of a run's folder that are archived with it."""
MOST_JSON = 64 << 20
"""Bytes of a card or an entry.json that are read into memory; 100,000 images need about 20 MB."""
PIECE = 1 << 20
OUTCOMES = ("imported", "replaced", "the same", "kept ours", "left out")
"""The outcomes of importing an entry."""
TAKEN = OUTCOMES[:2]

Model = TypeVar("Model", bound=BaseModel)


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class CardFile(_Strict):
    """A file in an archive."""

    bytes: int = Field(ge=0)
    sha256: Sha256


class CardEntry(_Strict):
    """An entry in an archive: the digest of its content, its roles in runs, its inputs by role, how it was made."""

    content: Sha256
    roles: list[str]
    inputs: dict[str, str]
    made: dict[str, Any]
    files: dict[str, CardFile]


class CardRun(_Strict):
    """A run whose entries are in an archive."""

    state: str
    files: dict[str, CardFile]


class Card(_Strict):
    """The contents of an archive.

    Attributes:
        kinds: those that it was restricted to; empty for all.
        missing: what the runs name, or entries are made from, that the store lacked.
    """

    format: str = FORMAT
    version: int = VERSION
    written_by: str
    kinds: list[str]
    runs: dict[str, CardRun]
    entries: dict[str, CardEntry]
    missing: list[str]


# Writing.


def write_archive(
    store: Path, target: Path, *, names: Collection[str], runs: Mapping[str, RunFolder], kinds: Collection[str] = ()
) -> Card:
    """Write entries with all that they are made from, and those of runs; return the card.

    Args:
        names: of entries.
        runs: name to give a run → the run.
        kinds: those to restrict it to; empty for all.

    Raises:
        DirePlugError: the file is there already or can't be written; nothing is left to write; an entry was damaged.
    """
    if target.exists():
        raise DirePlugError(f"{target}: already exists; remove it, or give --to another name")
    entries = read_entries(store)
    of_runs = {label: run.artefacts() for label, run in runs.items()}
    wanted = [*names, *(name for named in of_runs.values() for name in named)]
    reached = with_inputs({name: one.inputs for name, one in entries.items()}, wanted)
    chosen = [name for name in reached if not kinds or name.partition("/")[0] in kinds]
    found = [name for name in chosen if name in entries]
    if not found:
        which = f" of kind {', '.join(kinds)}" if kinds else ""
        raise DirePlugError(f"{store}: holds no entry{which} of what is to be exported; see `dire-plug list artefacts`")
    contents: dict[str, bytes] = {}
    card = Card(
        written_by=provenance.versions()["dire-plug"],
        kinds=sorted(kinds),
        runs={label: _card_run(label, run, contents) for label, run in sorted(runs.items())},
        entries={name: _card_entry(entries[name].path, name, of_runs, contents) for name in found},
        missing=sorted(set(chosen) - set(found)),
    )
    contents = {CARD: _as_json(card.model_dump()), README: describe(card, target.name).encode(), **contents}
    make_folder(target.absolute().parent)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
    try:
        # said and not left to Python's default, so that the bytes stay the same
        with tarfile.open(temporary, "x", format=tarfile.PAX_FORMAT) as tar:
            for member, content in contents.items():
                _add(tar, member, contents=content)
            for name in found:
                for file, path in entry_files(entries[name].path):
                    _add(tar, f"{ENTRIES}/{name}/{file}", path=path, sha256=card.entries[name].files[file].sha256)
        # only now, so that an archive of this name is always whole
        os.rename(temporary, target)
    except OSError as error:
        raise DirePlugError(f"{target}: cannot be written: {error}; nothing is left of it") from error
    finally:
        temporary.unlink(missing_ok=True)
    return card


def _card_entry(
    path: Path, name: str, of_runs: Mapping[str, Mapping[str, str]], contents: dict[str, bytes]
) -> CardEntry:
    """Return an entry for the card; put its entry.json among the contents to write."""
    record = read_entry(path)
    files = dict(entry_files(path))
    if record is None or files.keys() != record["files"].keys():
        raise _damaged(path)
    # when it came here by an archive is of this store only
    record = {key: value for key, value in record.items() if key != "imported"}
    content = contents[f"{ENTRIES}/{name}/{ENTRY}"] = _as_json(record)
    facts = {file: CardFile(bytes=one.stat().st_size, sha256=record["files"][file]) for file, one in files.items()}
    return CardEntry(
        content=record["content"],
        roles=sorted({named[name] for named in of_runs.values() if name in named}),
        inputs=record["inputs"],
        made=record["made"],
        files={ENTRY: _facts(content), **facts},
    )


def _card_run(label: str, run: RunFolder, contents: dict[str, bytes]) -> CardRun:
    """Return a run for the card; put its files among the contents to write."""
    found = {name: (run.path / name).read_bytes() for name in OF_RUN if (run.path / name).is_file()}
    contents |= {f"{RUNS}/{label}/{name}": content for name, content in found.items()}
    return CardRun(state=run.state(), files={name: _facts(content) for name, content in found.items()})


def _damaged(path: Path) -> DirePlugError:
    return DirePlugError(f"{path}: was damaged, or edited; run the command that made it again, then export")


def _facts(content: bytes) -> CardFile:
    return CardFile(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())


def _as_json(content: Any) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def _add(
    tar: tarfile.TarFile, name: str, *, contents: bytes | None = None, path: Path | None = None, sha256: str = ""
) -> None:
    """Add a file, with contents or from a path, whose sha256 is checked while it is copied."""
    member = tarfile.TarInfo(name)  # its time is 0 and its owner nobody
    member.mode = 0o644
    if path is None:
        assert contents is not None
        member.size = len(contents)
        tar.addfile(member, io.BytesIO(contents))
        return
    member.size = path.stat().st_size
    with path.open("rb") as file:
        hashing = _Hashing(file)
        tar.addfile(member, hashing)
    if hashing.sha256 != sha256:
        raise _damaged(path)


class _Hashing:
    """A file that computes the sha256 of what is read from it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._found = file, hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        piece = self._file.read(size)
        self._found.update(piece)
        return piece

    @property
    def sha256(self) -> str:
        return self._found.hexdigest()


def describe(card: Card, name: str) -> str:
    """Return README.md: what an archive of this name holds, in words."""
    total = sum(one.bytes for entry in card.entries.values() for one in entry.files.values())
    counts = {kind: sum(entry.startswith(f"{kind}/") for entry in card.entries) for kind in KINDS}
    made = ", ".join(f"{count} {kind}" for kind, count in counts.items() if count)
    lines = [
        "# Artefacts of dire-plug",
        "",
        f"{made}; {format_bytes(total)}. Written by dire-plug {card.written_by}.",
        "",
        f"    dire-plug import {name}",
        "",
        "puts them into the store, where the commands that would make them find them. `card.json` says how each was",
        "made and has the sha256 of every file; `content` below is the sha256 of the sha256s of an entry's files.",
        "",
        *(f"- of the run `{label}` ({run.state}): see `{RUNS}/{label}/`" for label, run in card.runs.items()),
        *(f"- made by `{command}`" for command in _commands(card)),
        *([f"- not in it, since the store lacked it: {', '.join(card.missing)}"] if card.missing else []),
        "",
        "| entry | what | made | seconds | versions | device | threads | size | content |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for entry, one in card.entries.items():
        versions, hardware = (one.made.get(group, {}) for group in ("versions", "hardware"))
        made_with = ", ".join(f"{package} {versions.get(package, '?')}" for package in ("dire-plug", "torch", "python"))
        cells = [
            entry,
            ", ".join(one.roles) or entry.partition("/")[0],
            one.made.get("when", "?"),
            one.made.get("seconds", "?"),
            made_with,
            hardware.get("card") or hardware.get("processor") or hardware.get("device", "?"),
            hardware.get("threads", "?"),
            format_bytes(sum(file.bytes for file in one.files.values())),
            one.content,
        ]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) + "\n"


def _commands(card: Card) -> list[str]:
    found = (" ".join(map(str, one.made.get("command", ()))) for one in card.entries.values())
    return sorted({one for one in found if one})


# Reading.


@dataclass(frozen=True)
class Arrival:
    """An imported entry, and its outcome: `what` is one of `OUTCOMES`."""

    name: str
    bytes: int
    what: str
    why: str = ""


def read_archive(store: Path, archive: Path, *, replace: bool = False) -> tuple[Card, list[Arrival], list[str]]:
    """Import the entries of an archive into the store; all are checked before the first one is added.

    Args:
        replace: take theirs where ours has another content.

    Returns:
        the card, what became of each entry, and the names of the entries here that were made from a replaced one: they
        are made again when a run needs them.

    Raises:
        DirePlugError: it isn't an archive of ours, has files that its card doesn't list or whose names lead out of it,
            or was damaged; nothing was imported then.
    """
    with _opened(archive) as tar:
        card, members = _check_members(archive, tar)
        records = {name: _read_record(archive, tar, members, card, name) for name in card.entries}
        arrivals = _decide(store, card, records, replace=replace)
        taken = [one for one in arrivals if one.what in TAKEN]
        _require_space(store, archive, sum(one.bytes for one in taken))
        key = f"import-{uuid.uuid4().hex}"
        work = store / WORK / key
        with hold(lease_of(store, key), what=f"the import of {archive}"):
            try:
                for one in taken:
                    _unpack(archive, tar, members, card.entries[one.name], one.name, work / one.name)
                published = {one.name: _publish(store, work, records[one.name], one, archive) for one in taken}
            finally:
                shutil.rmtree(work, ignore_errors=True)
    arrivals = [published.get(one.name, one) for one in arrivals]
    replaced = {one.name: records[one.name].content for one in arrivals if one.what == "replaced"}
    outdated = [
        name
        for name, entry in read_entries(store).items()
        if any(entry.record.get("made_from", {}).get(one, now) != now for one, now in replaced.items())
    ]
    return card, arrivals, outdated


@contextlib.contextmanager
def _opened(archive: Path) -> Iterator[tarfile.TarFile]:
    try:
        # "r:" opens what isn't compressed only: nothing in it can be larger than the file
        with tarfile.open(archive, "r:") as tar:
            yield tar
    except tarfile.TarError as error:
        raise DirePlugError(f"{archive}: is no archive of `dire-plug export` that can be read: {error}") from error
    except OSError as error:
        raise DirePlugError(f"{error.filename or archive}: {error.strerror or error}; nothing was imported") from error


def _check_members(archive: Path, tar: tarfile.TarFile) -> tuple[Card, dict[str, tarfile.TarInfo]]:
    """Return the card, and name → member; raise for all that the card doesn't name as it is."""
    first = tar.next()
    if first is None or first.name != CARD or not first.isreg():
        raise DirePlugError(f"{archive}: is no archive of `dire-plug export`: its first file isn't {CARD}")
    card = _read_card(archive, _read_json(archive, tar, first))
    sizes: dict[str, int | None] = {CARD: first.size, README: None}
    for name, entry in card.entries.items():
        sizes |= {f"{ENTRIES}/{name}/{file}": facts.bytes for file, facts in entry.files.items()}
    for label, run in card.runs.items():
        sizes |= {f"{RUNS}/{label}/{file}": facts.bytes for file, facts in run.files.items()}
    members: dict[str, tarfile.TarInfo] = {}
    for member in tar:
        name = repr(member.name)[1:-1]  # of a third-party file: repr escapes characters that would move the cursor
        if not _is_safe(member.name):
            raise DirePlugError(f"{archive}: {name}: leads out of the archive, or is no name; nothing was imported")
        # links could point out of the store, and sparse files claim more than the archive holds
        if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
            raise DirePlugError(
                f"{archive}: {name}: is no plain file, as a link or a device isn't; nothing was imported"
            )
        if member.name not in sizes:
            raise DirePlugError(f"{archive}: {name}: isn't in its card; nothing was imported")
        if member.name in members:
            raise DirePlugError(f"{archive}: {name}: is in it twice; nothing was imported")
        if (listed := sizes[member.name]) not in (None, member.size):
            raise DirePlugError(
                f"{archive}: {name}: has {member.size} bytes, and {listed} in its card; nothing was imported"
            )
        members[member.name] = member
    if lacking := sorted(sizes.keys() - members.keys()):
        raise DirePlugError(f"{archive}: lacks {lacking[0]}, which is in its card; get the file again")
    return card, members


def _read_card(archive: Path, content: bytes) -> Card:
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DirePlugError(f"{archive}: {CARD} cannot be read as JSON: {error}") from error
    if not isinstance(parsed, dict) or parsed.get("format") != FORMAT:
        raise DirePlugError(f"{archive}: is no archive of `dire-plug export`: {CARD} names another format")
    if parsed.get("version") != VERSION:
        raise DirePlugError(
            f"{archive}: is of version {parsed.get('version')!r} of the format, and this dire-plug reads {VERSION}; "
            "use the dire-plug that wrote it"
        )
    card = _parse(Card, content, f"{archive}: {CARD}")
    for name, entry in card.entries.items():
        kind, _, number = name.partition("/")
        if kind not in KINDS or not re.fullmatch(rf"[0-9a-f]{{{LENGTH}}}", number):
            raise DirePlugError(f"{archive}: {name!r} is no name of an entry that this dire-plug knows")
        if ENTRY not in entry.files or not all(map(_is_safe, entry.files)):
            raise DirePlugError(f"{archive}: {name}: has no {ENTRY}, or a file's name leads out of it")
    for label, run in card.runs.items():
        if not _is_safe(label) or not run.files.keys() <= set(OF_RUN):
            raise DirePlugError(f"{archive}: {label!r} is no run of an archive")
    return card


def _parse(model: type[Model], content: bytes, where: str) -> Model:
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        raise DirePlugError(f"{where}: {tell_first(error)}; the file was damaged or edited") from error


def _is_safe(name: str) -> bool:
    """Return whether a file's name stays in its folder and is printable, without a backslash."""
    parts = name.split("/")
    return name.isprintable() and "\\" not in name and not {"", ".", ".."} & set(parts)


def _read_json(archive: Path, tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if member.size > MOST_JSON:
        raise DirePlugError(f"{archive}: {member.name}: {format_bytes(member.size)} is too large for such a file")
    file = tar.extractfile(member)
    assert file is not None  # it is a plain file
    return file.read()


def _read_record(
    archive: Path, tar: tarfile.TarFile, members: Mapping[str, tarfile.TarInfo], card: Card, name: str
) -> Record:
    """Return entry.json of an entry; raise where it isn't what the entry's name and the card say."""
    entry = card.entries[name]
    content = _read_json(archive, tar, members[f"{ENTRIES}/{name}/{ENTRY}"])
    record = _parse(Record, content, f"{archive}: {name}: {ENTRY}")
    files = {file: facts.sha256 for file, facts in entry.files.items() if file != ENTRY}
    wrong = {
        "what decided it": name_of(record.kind, record.decided_by, record.inputs) != name,
        "its files": record.files != files,
        "the digest of its content": {record.content, entry.content} != {digest(files)},
        "its own sha256": hashlib.sha256(content).hexdigest() != entry.files[ENTRY].sha256,
    }
    if found := [what for what, is_wrong in wrong.items() if is_wrong]:
        raise DirePlugError(
            f"{archive}: {name}: {ENTRY} contradicts {' and '.join(found)}; the file was damaged or edited, "
            "and nothing was imported"
        )
    return record


def _decide(store: Path, card: Card, records: Mapping[str, Record], *, replace: bool) -> list[Arrival]:
    """Return the outcome planned for each entry, inputs first.

    An entry whose input has another content here would be made again anyway, so it is left out.
    """
    here: dict[str, str] = {}
    left_out: set[str] = set()
    found = []
    # inputs first: what becomes of them decides what becomes of an entry
    for name in with_inputs({one: record.inputs.values() for one, record in records.items()}, records):
        ours = _sound_content(store / name)
        record = records.get(name)
        if record is None:  # an input that isn't in the archive
            here |= {} if ours is None else {name: ours}
            continue
        size = sum(file.bytes for file in card.entries[name].files.values())
        others = [
            one
            for one in record.inputs.values()
            if one in left_out or here.get(one, record.made_from.get(one)) != record.made_from.get(one)
        ]
        if ours == record.content:
            found.append(Arrival(name, size, "the same"))
        elif ours is not None and not replace:
            found.append(Arrival(name, size, "kept ours", "its content differs; --replace takes theirs"))
        elif others:
            left_out.add(name)
            found.append(Arrival(name, size, "left out", f"made from another {others[0]} than the one that is here"))
        else:
            found.append(Arrival(name, size, "imported" if ours is None else "replaced"))
            ours = record.content
        here |= {} if ours is None else {name: ours}
    return found


def _sound_content(entry: Path) -> str | None:
    """Return the digest of the content of an entry that is here and undamaged; else None."""
    if (record := read_entry(entry)) is None:
        return None
    with contextlib.suppress(OSError):
        if hash_entry(entry) == record["content"] and find_misfit(entry) is None:
            return str(record["content"])
    return None


def _require_space(store: Path, archive: Path, needed: int) -> None:
    there = next(path for path in (store, *store.parents) if path.exists())
    if (free := shutil.disk_usage(there).free) < needed:
        raise DirePlugError(f"{archive}: needs {format_bytes(needed)} in {store}, and {format_bytes(free)} are free")


def _unpack(
    archive: Path,
    tar: tarfile.TarFile,
    members: Mapping[str, tarfile.TarInfo],
    entry: CardEntry,
    name: str,
    folder: Path,
) -> None:
    """Write the files of an entry, but for entry.json, into a folder."""
    for file, facts in entry.files.items():
        if file == ENTRY:
            continue
        target = folder.joinpath(*PurePosixPath(file).parts)
        make_folder(target.parent)
        found = tar.extractfile(members[f"{ENTRIES}/{name}/{file}"])
        assert found is not None  # it is a plain file
        hashing = _Hashing(found)
        with target.open("xb") as copy:
            while piece := hashing.read(PIECE):
                copy.write(piece)
        if hashing.sha256 != facts.sha256:
            raise DirePlugError(
                f"{archive}: {name}/{file}: has another sha256 than its entry.json says; the file was damaged, and "
                "nothing was imported"
            )
    if (misfit := find_misfit(folder)) is not None:
        raise DirePlugError(f"{archive}: {name}: doesn't hold what is read of it ({misfit}), and nothing was imported")


def _publish(store: Path, work: Path, record: Record, planned: Arrival, archive: Path) -> Arrival:
    """Make what was unpacked an entry, unless the store has got one of this name in the meantime."""
    name, entry = planned.name, store / planned.name
    with hold(lease_of(store, name), wait=float("inf"), what=f"the store's entry {name}"):
        if planned.what == "imported" and (ours := _sound_content(entry)) is not None:
            same = ours == record.content
            return Arrival(name, planned.bytes, "the same" if same else "kept ours", "made here in the meantime")
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        content = {**record.model_dump(), "imported": {"when": now, "archive": archive.name}}
        write_json(work / name / ENTRY, content)
        if not put(work / name, entry, instead_of=identify(entry)):
            return Arrival(name, planned.bytes, "kept ours", "made here in the meantime")
    return planned
