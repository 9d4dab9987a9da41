"""Judge whether a tree of dire-plug still makes the same images, students and measures, bit by bit.

    python tests/judge/judge.py [TREE] [--slice] [--case NAME …] [--reference] [--jobs 2] [--work FOLDER]

It runs commands of a tree (default: the one this file lies in), each case in a home of its own and with one thread, and
compares what they left with digests.json beside it: files and tensors of images by their bytes, weights by tensor, what
students, losses and measures are by exact value. Seconds, hardware, and names and digests of artefacts don't count.

Digests hold for one processor and one torch, which are their key. Where the table has no such key, the reference commit
that stands in the table runs first, and its digests are added to the table: commit them. `--reference` runs it in any
case, and then what differs is named.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
TABLE = HERE / "digests.json"
METHODS = ("cda", "cv-dd", "delt", "dm", "dwa", "edc", "fadrm", "g-vbsm", "infer", "lpld", "mtt", "sre2l", "sre2l-pp")
NOT_COMPARED = {"seconds", "hardware", "networks", "label_seconds", "vendored"}
"""Keys whose values may differ between two runs that are the same: times, machines, digests of entries."""

_TABLE_LOCK = threading.Lock()
Digests = dict[str, str]
"""Group → its digest and how many things it covers, such as "37df106bb1a5bc7aac2d of 103"."""


@dataclass(frozen=True)
class Case:
    """Some commands in one home.

    Attributes:
        commands: arguments of dire-plug; `{here}` is the folder of the case's own files.
        sliced: whether `--slice` runs it too.
        vendors: the method whose published code the commands need.
    """

    commands: tuple[str, ...]
    sliced: bool = False
    vendors: str | None = None


PROTOCOLS: dict[str, dict[str, Any]] = {
    "on-the-fly": {"padding": 1},
    "hard-labels": {"test_from": 9, "lr": 0.01, "lr_without": 0.01},
    "static-labels": {"padding": 1},
    "dynamic-labels": {"padding": 1},
    "ensemble-labels": {},
    "delt": {"statistics": "teacher"},
    "sre2l-tiny": {"warmup_epochs": 1, "lr": 0.01},
    "dwa-tiny": {"warmup_epochs": 1, "lr": 0.01},
    "fkd": {},
    "fkd-ensemble": {},
    "cv-dd": {},
}
"""Each protocol, with what the few small images of recipes.yaml need."""


def _both_arms(method: str) -> Case:
    commands = (f"run {method} --engine upstream", f"run {method} --engine upstream --dire")
    return Case(commands, sliced=method in ("sre2l", "delt", "infer", "mtt"), vendors=method)


CASES: dict[str, Case] = {
    **{method: _both_arms(method) for method in METHODS},
    "native": Case(("run sre2l --engine native", "run sre2l --engine native --dire"), sliced=True),
    "fkd": Case(("run sre2l --engine native --recipe {here}/sre2l.yaml --dire",), sliced=True),
    "set": Case(tuple(f"{verb} {{here}}/set --recipe sre2l/quick" for verb in ("evaluate", "measure")), sliced=True),
    "protocols": Case(tuple(f"run g-vbsm --arm random --recipe {{here}}/{name}.yaml" for name in PROTOCOLS)),
}


class JudgeError(Exception):
    """What the judge can't do, in words for its user."""


# What a case needs.


def write_files(folder: Path) -> None:
    """Write the recipes of the protocols and a set from outside, which hang on nothing but scikit-learn's digits."""
    base = yaml.safe_load((HERE / "recipes.yaml").read_text())
    for name, method, protocol in (("sre2l", "sre2l", "fkd"), *((name, "g-vbsm", name) for name in PROTOCOLS)):
        section = {**base[method]["evaluate"], **PROTOCOLS[protocol], "protocol": protocol}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({**base[method], "evaluate": section}, sort_keys=False))
    write_set(folder / "set")


def write_set(folder: Path, per_class: int = 5) -> None:
    """Write the first images of each digit as PNGs, in grey levels of 0 to 255."""
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    for label in range(10):
        (folder / str(label)).mkdir(parents=True)
        for index, pixels in enumerate(digits.images[digits.target == label][:per_class]):
            grey = (pixels * 255 / 16).astype("uint8")
            Image.fromarray(grey).convert("RGB").save(folder / str(label) / f"{index}.png")


# Running.


def run_case(name: str, tree: Path, work: Path) -> Digests | str:
    """Run a case of a tree below `work`, and return the digest of each group, or why it was left out.

    Raises:
        JudgeError: a command failed.
    """
    case, home = CASES[name], work / name
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    write_files(home)
    environment = _environment(tree, work, home / "home")
    if case.vendors:
        code, told = _dire_plug(f"vendor {case.vendors}", environment, home)
        if code:
            return _last_line(told)
    for command in case.commands:
        code, told = _dire_plug(command.format(here=home), environment, home)
        if code:
            raise JudgeError(f"{name}: `dire-plug {command}` ended with {code}:\n{told[-2000:]}")
    facts = read_facts(home / "home")
    (home / "facts.json").write_text(json.dumps(facts, indent=1, sort_keys=True))
    return {group: f"{_digest(values)} of {len(values)}" for group, values in facts.items()}


def _dire_plug(command: str, environment: Mapping[str, str], folder: Path) -> tuple[int, str]:
    words = [sys.executable, "-P", "-m", "dire_plug", *command.split(" ")]
    done = subprocess.run(words, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1] if text.strip() else "it said nothing"


def _environment(tree: Path, work: Path, home: Path) -> dict[str, str]:
    """Return the environment in which `dire_plug` is that of the tree, its plugins too, whatever is installed."""
    metadata = work / "metadata"
    project = tomllib.loads((tree / "pyproject.toml").read_text())["project"]
    info = metadata / f"dire_plug-{project['version']}.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: dire-plug\nVersion: {project['version']}\n")
    groups = (
        f"[{group}]\n" + "".join(f"{name} = {place}\n" for name, place in members.items())
        for group, members in project["entry-points"].items()
    )
    (info / "entry_points.txt").write_text("\n".join(groups))
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DIRE_PLUG_", "PYTHON"))}
    path = os.pathsep.join([str(metadata), str(tree)])
    return {**kept, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "DIRE_PLUG_HOME": str(home), "CUDA_VISIBLE_DEVICES": ""}


# What a home holds.


def read_facts(home: Path) -> dict[str, dict[str, Any]]:
    """Return what the runs and the store of a home hold, in groups: file, tensor or key → digest or value."""
    facts: dict[str, dict[str, Any]] = {}
    for metrics in sorted((home / "runs").rglob("metrics.json")):
        folder = metrics.parent
        run = folder.relative_to(home / "runs").as_posix().rpartition("-")[0]  # without its id, which is a digest
        for group, values in _read_run(folder).items():
            facts.setdefault(group, {}).update({f"{run}: {name}": value for name, value in values.items()})
    for kind, weights in (("network", "*.safetensors"), ("expert", "*.pt")):
        files = (home / "store" / kind).rglob(weights)
        facts[f"weights: {kind}"] = _numbered(_read_weights(path) for path in files)
    for kind in ("student", "diversity"):
        files = (home / "store" / kind).rglob(f"{kind}.json")
        facts[kind] = _numbered(_comparable(json.loads(path.read_text())) for path in files)
    return {group: values for group, values in facts.items() if values}


def _read_run(folder: Path) -> dict[str, dict[str, Any]]:
    images = {
        path.relative_to(folder).as_posix(): _of_bytes(path.read_bytes())
        for path in sorted((folder / "images").rglob("*"), key=str)
        if path.is_file()
    }
    for name in ("images.safetensors", "patches.safetensors"):
        if (folder / name).is_file():
            images |= {f"{name}: {key}": value for key, value in _read_weights(folder / name).items()}
    found = {"images": images}
    for name in ("losses.json", "extras.json", "plan.json", "metrics.json"):
        if (folder / name).is_file():
            found[name.removesuffix(".json")] = dict(_flat(_comparable(json.loads((folder / name).read_text()))))
    return found


def _read_weights(path: Path) -> dict[str, str]:
    """Return the digest of each tensor in a file: its type, its shape, its bytes."""
    import torch
    from safetensors.torch import load_file

    found = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
    return {name: _of_tensor(value) for name, value in _flat(found) if torch.is_tensor(value)}


def _of_tensor(value: Any) -> str:
    import torch

    tensor = value.detach().contiguous()
    raw = tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
    return _of_bytes(f"{tensor.dtype} {tuple(tensor.shape)}".encode() + raw)


def _comparable(value: Any) -> Any:
    """Return JSON without what may differ."""
    if isinstance(value, dict):
        return {key: _comparable(each) for key, each in value.items() if key not in NOT_COMPARED}
    return [_comparable(each) for each in value] if isinstance(value, list) else value


def _flat(value: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the leaves of nested mappings and lists, by their path."""
    if isinstance(value, Mapping):
        members: Iterable[tuple[Any, Any]] = value.items()
    elif isinstance(value, list | tuple):
        members = enumerate(value)
    else:
        yield where, value
        return
    for key, each in members:
        yield from _flat(each, f"{where}.{key}" if where else str(key))


def _numbered(found: Iterator[Any]) -> dict[str, Any]:
    """Return things whose names are digests in the order of their contents, so that names don't count."""
    ordered = sorted(found, key=lambda each: json.dumps(each, sort_keys=True))
    return dict(_flat(ordered))


def _of_bytes(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:20]


def _digest(values: Mapping[str, Any]) -> str:
    return _of_bytes(json.dumps(values, sort_keys=True).encode())


# The table.


def key() -> str:
    """Return what the digests of this machine stand under: processor, what torch makes of it, and torch."""
    import torch

    return f"{_processor()}, {torch.backends.cpu.get_cpu_capability()}, torch {version('torch').partition('+')[0]}"


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    found = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    named = [found[name] for name in ("vendor_id", "cpu family", "model", "model name") if found.get(name)]
    return " ".join(named) or platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Return the versions of the other packages that decide bits."""
    return {name: version(name) for name in ("torchvision", "numpy", "scipy", "scikit-learn", "pillow")}


def read_table() -> dict[str, Any]:
    """Return the table: the reference commit, and each key's versions and cases."""
    table: dict[str, Any] = json.loads(TABLE.read_text())
    return table


def known() -> dict[str, Digests]:
    """Return the digests of each case that the table has for this machine's key."""
    cases: dict[str, Digests] = read_table()["keys"].get(key(), {"cases": {}})["cases"]
    return cases


def record(name: str, found: Digests) -> None:
    """Add the digests of a case on this machine to the table."""
    with _TABLE_LOCK:
        table = read_table()
        entry = table["keys"].setdefault(key(), {"versions": versions(), "cases": {}})
        entry["cases"][name] = found
        TABLE.write_text(json.dumps(table, indent=1, sort_keys=True) + "\n")


def differences(name: str, found: Mapping[str, str], expected: Mapping[str, str]) -> list[str]:
    """Return what differs between two results of a case, a line each."""
    lines = [f"{name}: {group}: gone" for group in expected.keys() - found.keys()]
    lines += [f"{name}: {group}: new" for group in found.keys() - expected.keys()]
    lines += [
        f"{name}: {group}: differs ({found[group]}, expected {expected[group]})"
        for group in found.keys() & expected.keys()
        if found[group] != expected[group]
    ]
    return sorted(lines)


# The command.


def main(words: Sequence[str] | None = None) -> int:
    """Judge a tree; return the exit code."""
    options = _parse(words)
    names = options.case or [name for name, case in CASES.items() if case.sliced or not options.slice]
    if unknown := set(names) - CASES.keys():
        raise JudgeError(f"no case is named {sorted(unknown)[0]}; one of {', '.join(CASES)}")
    work = Path(options.work or tempfile.mkdtemp(prefix="dire-plug-judge-")).resolve()
    print(f"{key()}; work folder {work}", flush=True)
    expected = known()
    if fresh := [name for name in names if name not in expected or options.reference]:
        print(f"the reference runs first: {', '.join(fresh)}", flush=True)
        run_reference(fresh, work, options.jobs)
        expected = known()
    found = run_cases(names, options.tree.resolve(), work / "tree", options.jobs)
    return _report(found, expected, work)


def _parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tree", nargs="?", type=Path, default=ROOT, help="a checkout of dire-plug; default: this one")
    parser.add_argument("--slice", action="store_true", help="only the cases that take some ten minutes together")
    parser.add_argument("--case", action="append", help=f"only these cases: {', '.join(CASES)}")
    parser.add_argument("--reference", action="store_true", help="run the reference commit too, and name what differs")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="cases at a time; default: one a core")
    parser.add_argument("--work", type=Path, help="the folder of the homes; default: a new one")
    return parser.parse_args(words)


def run_reference(names: Sequence[str], work: Path, jobs: int) -> None:
    """Run cases of the reference commit, and add the digests of each to the table as it ends.

    Raises:
        JudgeError: the commit isn't in this repository, or a command failed.
    """
    commit, tree = read_table()["reference"], work / "reference" / "checkout"
    tree.parent.mkdir(parents=True, exist_ok=True)
    git = ["git", "-C", str(ROOT), "worktree"]
    done = subprocess.run(
        [*git, "add", "--detach", "--force", str(tree), commit], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise JudgeError(f"the reference commit {commit} can't be checked out here: {done.stderr.strip()}")
    try:
        run_cases(names, tree, work / "reference", jobs, done=record)
    finally:
        subprocess.run([*git, "remove", "--force", str(tree)], check=False)


def run_cases(
    names: Sequence[str], tree: Path, work: Path, jobs: int, *, done: Callable[[str, Digests], None] | None = None
) -> dict[str, Digests | str]:
    """Run cases of a tree, some at a time; return the digests of each, or why it was left out."""

    def run(name: str) -> Digests | str:
        started = time.monotonic()
        groups = run_case(name, tree, work)
        if done and not isinstance(groups, str):
            done(name, groups)
        told = f"left out: {groups}" if isinstance(groups, str) else f"{time.monotonic() - started:.0f} s"
        print(f"  {work.name} {name}: {told}", flush=True)
        return groups

    with ThreadPoolExecutor(jobs) as pool:
        return dict(zip(names, pool.map(run, names), strict=True))


def _report(found: Mapping[str, Digests | str], expected: Mapping[str, Digests], work: Path) -> int:
    """Print what was compared, what differs and what was left out; return the exit code."""
    lines, compared, ran = list[str](), 0, 0
    for name, groups in found.items():
        if isinstance(groups, str) or name not in expected:
            print(f"left out: {name}: {groups if isinstance(groups, str) else 'the reference could not run it'}")
            continue
        ran += 1
        compared += sum(int(each.rpartition(" ")[2]) for each in groups.values())
        lines += differences(name, groups, expected[name])
        lines += _details(work / "reference" / name / "facts.json", work / "tree" / name / "facts.json")
    if lines and (apart := _other_versions()):
        print(f"other versions than the table's: {apart}")
    verdict = "DIFFERENT" if lines else "equal"
    print("\n".join([*lines, f"{verdict}: {ran} of {len(found)} cases, {compared:,} things compared"]))
    return 1 if lines else 0


def _details(reference: Path, tree: Path, most: int = 5) -> list[str]:
    """Return the first things that differ between two facts.json, if both are there."""
    if not reference.is_file():
        return []
    one, other = (dict(_flat(json.loads(path.read_text()))) for path in (reference, tree))
    apart = [name for name in one.keys() | other.keys() if one.get(name) != other.get(name)]
    return [f"  {name}: {one.get(name)} → {other.get(name)}" for name in sorted(apart)[:most]]


def _other_versions() -> str:
    then = read_table()["keys"][key()]["versions"]
    return ", ".join(
        f"{name} {now} (then {then.get(name)})" for name, now in versions().items() if then.get(name) != now
    )


if __name__ == "__main__":
    try:
        sys.exit(main())
    except JudgeError as error:
        sys.exit(f"error: {error}")
