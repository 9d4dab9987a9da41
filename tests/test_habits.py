"""What stands in two files beside the code says the same in both: versions, ranges, pins and commands."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
GITHUB = sorted((ROOT / ".github").rglob("*.yml"))
FORMS = [path for path in GITHUB if path.parent.name == "ISSUE_TEMPLATE" and path.stem != "config"]


def read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def jobs() -> dict[str, Any]:
    found: dict[str, Any] = read_yaml(ROOT / ".github" / "workflows" / "test.yml")["jobs"]
    return found


def pins(path: Path) -> dict[str, set[Version]]:
    """Return package → the versions that a file of constraints or a lock pins; a lock may have one for each Python."""
    found: dict[str, set[Version]] = {}
    for name, version in re.findall(r"^([\w.-]+)==([^\s;]+)", path.read_text(), re.MULTILINE):
        found.setdefault(canonicalize_name(name), set()).add(Version(version))
    return found


def requirements(*extras: str) -> list[Requirement]:
    """Return what the package needs, with these extras; not itself."""
    needed = [
        Requirement(line) for line in [*PROJECT["dependencies"], *(one for name in extras for one in EXTRAS[name])]
    ]
    return [requirement for requirement in needed if requirement.name != PROJECT["name"]]


def test_the_workflow_runs_the_classifiers_versions_of_python() -> None:
    words = [name.rpartition(" :: ")[2] for name in PROJECT["classifiers"] if "Python :: 3." in name]
    assert jobs()["tests"]["strategy"]["matrix"]["python"] == words
    assert PROJECT["requires-python"] == f">={words[0]}"


def test_the_lowest_versions_run_on_the_oldest_python() -> None:
    (python,) = [
        step["with"]["python-version"] for step in jobs()["lowest"]["steps"] if "python" in step.get("uses", "")
    ]
    assert PROJECT["requires-python"] == f">={python}"


def test_the_workflow_calls_targets_that_the_makefile_has() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    called = [
        step["run"].split()[1] for job in jobs().values() for step in job["steps"] if step.get("run", "")[:5] == "make "
    ]
    assert len(called) == len(jobs())
    assert set(called) <= targets


def test_the_lowest_versions_are_the_lower_ends_of_the_ranges() -> None:
    lower = {
        canonicalize_name(requirement.name): {
            Version(part.version) for part in requirement.specifier if part.operator == ">="
        }
        for requirement in requirements("clip", "students", "upstreams")
    }
    assert pins(ROOT / "ci" / "lowest.txt") == lower


def test_the_lock_is_within_the_ranges() -> None:
    locked = pins(ROOT / "requirements-dev.lock")
    outside = [
        str(requirement)
        for requirement in requirements("dev", "docs", "test", "upstreams")
        if not all(
            version in requirement.specifier
            for version in locked.get(canonicalize_name(requirement.name), {Version("0")})
        )
    ]
    assert outside == []


def test_the_lock_names_no_address_and_no_local_version() -> None:
    assert re.findall(r"://|^-.*|==\S+\+\S+| @ ", (ROOT / "requirements-dev.lock").read_text(), re.MULTILINE) == []


def test_the_hooks_use_the_locks_ruff() -> None:
    hooks = read_yaml(ROOT / ".pre-commit-config.yaml")["repos"][0]["hooks"]
    used = {pin for hook in hooks for pin in hook["additional_dependencies"] if pin.startswith("ruff")}
    assert used == {f"ruff=={version}" for version in pins(ROOT / "requirements-dev.lock")["ruff"]}


@pytest.mark.parametrize("path", ["patches/sre2l/bridge.patch", "tests/golden/comparison.txt"])
def test_no_hook_touches_patches_and_golden_files(path: str) -> None:
    assert (ROOT / path).is_file()
    assert re.search(read_yaml(ROOT / ".pre-commit-config.yaml")["exclude"], path)


@pytest.mark.parametrize("path", [*GITHUB, ROOT / ".pre-commit-config.yaml"], ids=lambda path: path.stem)
def test_a_file_of_settings_can_be_read(path: Path) -> None:
    assert isinstance(read_yaml(path), dict)


@pytest.mark.parametrize("form", FORMS, ids=lambda path: path.stem)
def test_an_issue_form_asks_each_thing_once(form: Path) -> None:
    content = read_yaml(form)
    assert {"name", "description", "body"} <= content.keys()
    asked = [part["id"] for part in content["body"] if part["type"] != "markdown"]
    assert len(asked) == len(set(asked)) > 0


def test_the_readme_and_the_citation_cite_the_paper_alike() -> None:
    paper = read_yaml(ROOT / "CITATION.cff")["preferred-citation"]
    kind, entry = re.findall(r"^@(\w+)\{(.*?)^\}", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)[0]
    fields = {key: re.sub("[{}]", "", value) for key, value in re.findall(r"(\w+) += \{(.*)\},?$", entry, re.MULTILINE)}
    assert (kind, paper["type"]) == ("inproceedings", "conference-paper")
    assert fields == {
        "title": paper["title"],
        "author": " and ".join(f"{one['family-names']}, {one['given-names']}" for one in paper["authors"]),
        "booktitle": paper["collection-title"],
        "year": str(paper["year"]),
        "note": paper["identifiers"][0]["value"],
    }


def test_the_pages_and_the_image_name_the_ranges_lowest_torch() -> None:
    (lowest,) = pins(ROOT / "ci" / "lowest.txt")["torch"]
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "containers").iterdir()]
    named = re.findall(r"\btorch ?(?:≥|>=) ?([\d.]*\d)", "\n".join(page.read_text() for page in pages))
    assert len(named) > 1
    assert {Version(version) for version in named} == {lowest}


def test_the_changelog_and_the_citation_have_the_version() -> None:
    (newest, *_) = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest == PROJECT["version"] == read_yaml(ROOT / "CITATION.cff")["version"]
