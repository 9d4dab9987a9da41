"""`dire-plug new method`: facts of a script, never its text; and what is missing, said by `verify` and `run`."""

import re
import shutil
from pathlib import Path

import pytest
from support.cli import Cli
from support.scaffolds import VALUES, files_of, fill, forget, install_package, lint, run_tests
from support.third_party_plugin import SCRIPT, ThirdParty
from support.toy_upstream import git

from dire_plug import home as places
from dire_plug.files import write_atomically
from dire_plug.recipe import read_yaml
from dire_plug.recipe.model import RecoverSection
from dire_plug.scaffold.package import LONGEST, Published, new_method

TO_FILL = ("LICENCE", "CLASSES", "SIZE", "MEAN", "STD", "STEM", "BATCHES", "FILE_NAME")
"""Constants of the toy's adapter that nothing in its script tells."""


@pytest.fixture
def origin(made_third_party: ThirdParty, bare_home: Path) -> Published:
    """The toy's published script, with a home folder of the test's own."""
    return Published(str(made_third_party.repository), made_third_party.commit, SCRIPT)


def line_of(origin: Published, **changes: str) -> list[str]:
    """Return the options of `new method`."""
    values = {"repository": origin.repository, "commit": origin.commit, "script": origin.script} | changes
    return [word for name, value in values.items() for word in (f"--{name}", value)]


def publish(folder: Path, sources: dict[str, str], *, script: str) -> Published:
    """Make a repository of some files."""
    for name, text in sources.items():
        write_atomically(folder / name, text)
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message=all")
    return Published(str(folder), git(folder, "rev-parse", "HEAD"), script)


def test_the_package_is_written_and_what_was_read_is_said(cli: Cli, origin: Published, tmp_path: Path) -> None:
    answer = cli("new", "method", "a-toy", *line_of(origin), "--into", tmp_path / "own")
    assert answer.code == 0, answer.err
    folder = tmp_path / "own" / "dire-plug-a-toy"
    assert answer.out.splitlines() == [
        f"made: {folder}",
        "      flags read: weights, out, steps, lr, round",
        "      told by their names: TEACHER_FLAG weights, IMAGES_FLAG out, PASS_FLAG round, STEPS_FLAG steps",
        "      taken for: passes many, images files, loss named, checkpoint bare",
        f"next: pip install --no-deps -e {folder}",
        "      dire-plug verify a-toy",
    ]
    assert files_of(folder) == [
        "README.md",
        "dire_plug_a_toy/__init__.py",
        "dire_plug_a_toy/flags.py",
        "dire_plug_a_toy/method.py",
        "dire_plug_a_toy/patches/bridge.patch",
        "dire_plug_a_toy/recipes/quick.yaml",
        "pyproject.toml",
        "tests/test_method.py",
    ]


def test_no_line_of_the_script_is_in_the_package(origin: Published, tmp_path: Path) -> None:
    folder = new_method("b-toy", origin, into=tmp_path).folder
    common = {"import torch", "from pathlib import Path", ""}
    theirs = {
        line.strip() for file in Path(origin.repository).glob("src/*.py") for line in file.read_text().splitlines()
    }
    ours = {line.strip().lstrip("+") for name in files_of(folder) for line in (folder / name).read_text().splitlines()}
    assert len(theirs) > 30
    assert theirs & ours - common == set()


def test_what_is_written_passes_the_linter(origin: Published, tmp_path: Path) -> None:
    folder = new_method("c" * LONGEST, origin, into=tmp_path).folder
    assert lint(folder) == ""


def test_verify_and_run_say_all_that_is_missing_before_a_line_is_written(
    cli: Cli, origin: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = new_method("d-toy", origin, into=tmp_path).folder
    install_package(folder, monkeypatch)
    module = folder / "dire_plug_d_toy"
    for line in (("verify", "d-toy"), ("run", "d-toy"), ("run", "d-toy", "--dry-run"), ("compare", "d-toy")):
        answer = cli(*line)
        assert answer.code == 2
        first, second, *rest = answer.err.splitlines()
        assert first == "error: d-toy is incomplete: 8 values to fill in, 6 calls to insert"
        assert second == f"  in {module}/method.py, line:"
        assert [re.findall(r"^  \d+: (\w+): ", line) for line in rest[:-1]] == [[name] for name in TO_FILL]
        assert rest[-1] == ("  then, by dire-plug patch insert: watch, labels, start, loss, step_done, image_index")
    assert not (places.runs()).exists()


def test_the_adapter_is_listed_and_vendored_before_a_line_is_written(
    cli: Cli, origin: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_package(new_method("e-toy", origin, into=tmp_path).folder, monkeypatch)
    assert "e-toy is incomplete" in cli("list", "methods").out
    answer = cli("vendor", "e-toy")
    assert answer.code == 0, answer.err
    patched = next(places.third_party().glob("e-toy@*")) / SCRIPT
    assert patched.read_text().splitlines()[7] == "from dire_plug import bridge"


def test_its_own_tests_check_the_patch_and_wait_for_the_rest(
    origin: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = new_method("f-toy", origin, into=tmp_path).folder
    install_package(folder, monkeypatch)
    with pytest.raises(pytest.skip.Exception, match="f-toy is incomplete: 8 values to fill in, 6 calls"):
        run_tests(folder / "tests" / "test_method.py")


def test_filled_in_only_the_patch_is_missing_and_then_the_code(
    cli: Cli, origin: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = new_method("g-toy", origin, into=tmp_path).folder
    install_package(folder, monkeypatch)
    file = fill(folder, VALUES)
    lines = cli("verify", "g-toy").err.splitlines()
    assert lines[0] == "error: g-toy is incomplete: 6 calls to insert"
    assert lines[1].endswith("by dire-plug patch insert g-toy src/synth.py:LINE 'CALL':")
    assert lines[2] == "  bridge.watch(NETWORK): when the trained network is loaded and frozen"
    assert len(lines) == 8
    file.write_text(re.sub(r"    calls = .*", "    calls = ()", file.read_text(), flags=re.MULTILINE))
    forget(folder)
    assert "get it where the network may be used: dire-plug vendor g-toy" in cli("verify", "g-toy").err
    answer = cli("run", "g-toy")
    assert (answer.code, answer.err) == (
        2,
        "error: recipe 'quick' has 1 problem:\n"
        "  recover.flags.steps: set it; the script has no default that could be read\n",
    )
    answer = cli("run", "g-toy", "--set", "recover.flags.steps=1")
    assert "g-toy's own code is needed and isn't vendored; get it with: dire-plug vendor g-toy" in answer.err
    recipe = folder / "dire_plug_g_toy" / "recipes" / "quick.yaml"
    recipe.write_text(recipe.read_text().replace("flags: {}", "flags: {steps: 1, lr: 0.1}"))
    assert run_tests(folder / "tests" / "test_method.py") == [
        "test_the_patch_is_for_the_pinned_commit",
        "test_the_recipe_fits_the_adapter",
    ]


def test_a_flag_that_the_script_lacks_is_missing_too(
    cli: Cli, origin: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = new_method("h-toy", origin, into=tmp_path).folder
    install_package(folder, monkeypatch)
    fill(folder, VALUES | {"TEACHER_FLAG": '"wieghts"'})
    answer = cli("verify", "h-toy")
    assert (
        ": TEACHER_FLAG: the script has no flag 'wieghts' (did you mean 'weights'?); it has steps, lr, weights"
        in answer.err
    )


@pytest.mark.parametrize(
    ("constant", "value", "says"),
    [
        ("ARCHITECTURE", '"resnet18"', "ARCHITECTURE: dire-plug names 'resnet18' otherwise: \"resnet-18\""),
        ("ARCHITECTURE", '"resnet-19"', "ARCHITECTURE: 'resnet-19' is unknown (did you mean 'resnet-18'?)"),
        ("CHECKPOINT", '"state-dict"', "CHECKPOINT: no layout 'state-dict' (did you mean 'state_dict'?)"),
        ("CHECKPOINT", '"state_dict"', ""),
    ],
)
def test_a_value_that_cannot_be_right_is_named_first(
    cli: Cli, origin: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, constant: str, value: str, says: str
) -> None:
    name = f"p-{abs(hash((constant, value))) % 10**6}-toy"
    folder = new_method(name, origin, into=tmp_path).folder
    install_package(folder, monkeypatch)
    fill(folder, {"FILE_NAME": VALUES["FILE_NAME"], constant: value})
    third = cli("verify", name).err.splitlines()[2]
    assert (says or "LICENCE: ") in third


@pytest.mark.parametrize("line", [("verify", "l-toy"), ("run", "l-toy", "--dry-run")])
def test_an_unknown_image_suffix_is_an_error_before_anything_runs(
    cli: Cli, origin: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: tuple[str, ...]
) -> None:
    folder = new_method("l-toy", origin, into=tmp_path).folder
    install_package(folder, monkeypatch)
    fill(folder, VALUES | {"FILE_NAME": '"{label}-{image}.pgn"'})
    message = "'{label}-{image}.pgn' ends in no format of images (did you mean '.png'?); use .jpeg, .jpg, .png, .webp"
    assert f"FILE_NAME: {message}" in cli(*line).err


def test_what_the_filled_adapter_cannot_run_is_refused_by_the_recipe_check(
    cli: Cli, origin: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = new_method("i-toy", origin, into=tmp_path).folder
    install_package(folder, monkeypatch)
    file = fill(folder, VALUES)
    file.write_text(re.sub(r"    calls = .*", "    calls = ()", file.read_text(), flags=re.MULTILINE))
    settings = ("recover.flags.steps=1", "squeeze.teacher.architecture=convnet-small", "recover.flags.round=1")
    line = [word for setting in settings for word in ("--set", setting)]
    assert (
        "recover.flags.round: can't be set in a recipe: the tool runs the passes one by one"
        in cli("run", "i-toy", *line).err
    )
    answer = cli("run", "i-toy", *line[:4])
    assert "squeeze.teacher.architecture: the script 'synth' takes resnet-18 (is 'convnet-small')" in answer.err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"commit": "0606ebab"}, "--commit must be the full commit, 40 hex digits (is '0606ebab')"),
        ({"commit": "main"}, "--commit must be the full commit, 40 hex digits (is 'main')"),
        ({"script": "/src/synth.py"}, "--script must be a Python file's path below the root of the repository"),
        ({"script": "../synth.py"}, "--script must be a Python file's path below the root of the repository"),
        ({"script": "src/README"}, "--script must be a Python file's path below the root of the repository"),
        ({"script": "src/snyth.py"}, "has no file 'src/snyth.py' (did you mean 'src/synth.py'?)"),
        ({"script": "other/synth.py"}, "has no file 'other/synth.py' (did you mean 'src/synth.py'?)"),
        ({"repository": "nowhere/at/all"}, "repository 'nowhere/at/all' does not exist"),
        ({"repository": "--upload-pack=x"}, "--repository must be an address or a folder that git clones"),
        ({"repository": "ext::sh -c x"}, "--repository must be an address or a folder that git clones"),
        ({"commit": "1" * 40}, "1111111"),
    ],
)
def test_bad_input_ends_with_a_reason_and_leaves_nothing(
    cli: Cli, origin: Published, tmp_path: Path, changes: dict[str, str], message: str
) -> None:
    answer = cli("new", "method", "j-toy", *line_of(origin, **changes), "--into", tmp_path / "own")
    assert answer.code == 2
    assert message in answer.err
    assert not (tmp_path / "own").exists()
    kept = list((places.downloads() / "published").glob("*")) if places.downloads().exists() else []
    assert [path for path in kept if not path.is_dir() or not (path / SCRIPT).is_file()] == []


def test_a_taken_name_or_folder_is_refused_before_anything_is_cloned(
    cli: Cli, origin: Published, tmp_path: Path
) -> None:
    (tmp_path / "dire-plug-k-toy").mkdir()
    for name, why in (("sre2l", "is taken among methods"), ("k-toy", "exists already"), ("K", "can't be a plugin's")):
        answer = cli("new", "method", name, *line_of(origin), "--into", tmp_path)
        assert answer.code == 2
        assert why in answer.err
        assert "cloning" not in answer.err


def test_a_script_that_is_not_python_is_refused(cli: Cli, bare_home: Path, tmp_path: Path) -> None:
    origin = publish(tmp_path / "old", {"src/old.py": "print 'x'\n"}, script="src/old.py")
    answer = cli("new", "method", "l-toy", *line_of(origin), "--into", tmp_path / "own")
    assert answer.code == 2
    assert "src/old.py:1: not a Python script that this Python can read" in answer.err
    assert not (tmp_path / "own").exists()


def test_a_script_at_the_root_brings_the_whole_repository(bare_home: Path, tmp_path: Path) -> None:
    sources = {"loop.py": "import parts.one\n", "parts/one.py": "", "README": "text"}
    made = new_method("m-toy", publish(tmp_path / "flat", sources, script="loop.py"), into=tmp_path)
    assert made.facts.packages == ()
    assert 'paths=(".",),' in (made.folder / "dire_plug_m_toy" / "method.py").read_text()
    assert [path.name for path in (places.downloads() / "published").glob("*/README")] == ["README"]


def test_what_stands_beside_the_scripts_folder_is_found(cli: Cli, bare_home: Path, tmp_path: Path) -> None:
    sources = {
        "recover/loop.py": "import ot\nfrom models.factory import make\nmake(pretrained=True)\n",
        "models/factory.py": "import timm\nparser.add_argument('--steps', type=int)\n",
        "models/widths.txt": "16",
        "other/large.py": "",
    }
    origin = publish(tmp_path / "published", sources, script="recover/loop.py")
    answer = cli("new", "method", "s-toy", *line_of(origin), "--into", tmp_path / "own")
    folder = tmp_path / "own" / "dire-plug-s-toy"
    assert answer.out.splitlines()[1:6] == [
        "      flags read: steps, in models/factory.py",
        "      told by their names: STEPS_FLAG steps",
        "      upstream's own, beside its folder: models",
        "      packages that it imports: ot, timm",
        "      taken for: passes one, images files, loss named, checkpoint bare",
    ]
    text = (folder / "dire_plug_s_toy" / "method.py").read_text()
    tree = git(tmp_path / "published", "rev-parse", "HEAD:models")
    assert 'paths=(\n            "recover",\n            "models",\n        ),' in text
    assert f'"models": "{tree}"' in text
    assert "TEACHER_F" not in text
    assert lint(folder) == ""


def test_a_mapped_address_is_cloned_and_then_needs_no_network(
    cli: Cli, origin: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "published"
    shutil.copytree(origin.repository, copy)
    settings = tmp_path / "gitconfig"
    settings.write_text(f'[url "{copy}"]\n\tinsteadOf = https://example.org/toy-net\n')
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(settings))
    line = line_of(origin, repository="https://example.org/toy-net")
    refused = cli("new", "method", "n-toy", *line, "--into", tmp_path, "--offline")
    assert (refused.code, "isn't downloaded, and --offline forbids cloning" in refused.err) == (2, True)
    assert cli("new", "method", "n-toy", *line, "--into", tmp_path).code == 0
    shutil.rmtree(copy)
    again = cli("new", "method", "o-toy", *line, "--into", tmp_path, "--offline")
    assert (again.code, again.err) == (0, "")
    assert (
        'repository="https://example.org/toy-net"'
        in (tmp_path / "dire-plug-o-toy" / "dire_plug_o_toy" / "method.py").read_text()
    )


def test_an_update_moves_the_patch_along_and_names_what_it_cannot(cli: Cli, origin: Published, tmp_path: Path) -> None:
    copy = tmp_path / "published"
    shutil.copytree(origin.repository, copy)
    folder = new_method("q-toy", Published(str(copy), origin.commit, SCRIPT), into=tmp_path).folder
    for place, call in ((21, "bridge.watch(network)"), (22, "labels = bridge.labels(labels)")):
        assert cli("patch", "insert", "q-toy", f"{SCRIPT}:{place}", call, "--package", folder).code == 0
    script = copy / SCRIPT
    lines = script.read_text().split("\n")
    # a line above all, and another one right behind `labels`
    script.write_text("\n".join(["import os", *lines[:22], "unused = 1", *lines[22:]]))
    git(copy, "commit", "--quiet", "--all", "--message=next")
    commit = git(copy, "rev-parse", "HEAD")
    answer = cli("new", "method", "q-toy", "--update", "--commit", commit, "--into", tmp_path)
    assert answer.code == 0, answer.err
    assert "calls that moved along: 1\n" in answer.out
    assert (
        "insert again, the code around it changed: labels = bridge.labels(labels) (was at src/synth.py:22)"
        in answer.out
    )
    patch = next(folder.glob("*/patches/bridge.patch")).read_text()
    assert f"commit: {commit}\n" in patch
    assert "@@ -22,0 +24 @@\n+bridge.watch(network)\n" in patch
    for name in ("method.py", "recipes/quick.yaml"):
        assert commit in next(folder.glob(f"*/{name}")).read_text()
    assert git(copy, "rev-parse", "HEAD:src") in next(folder.glob("*/method.py")).read_text()
    forget(folder)
    again = cli("new", "method", "q-toy", "--update", "--commit", commit, "--into", tmp_path)
    assert (again.code, "is at commit" in again.err) == (2, True)


def test_a_script_of_one_call_and_an_unnamed_loss_gets_what_applies(
    cli: Cli, origin: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = ("--passes", "one", "--images", "tensor", "--loss", "unnamed", "--checkpoint", "state_dict")
    answer = cli("new", "method", "r-toy", *line_of(origin), *line, "--into", tmp_path)
    assert "taken for: passes one, images tensor, loss unnamed, checkpoint state_dict" in answer.out
    assert "a batch is taken to hold one image of a class: let `plan` of the adapter say it where" in answer.out
    folder = tmp_path / "dire-plug-r-toy"
    recipe = read_yaml(folder / "dire_plug_r_toy" / "recipes" / "quick.yaml")
    assert RecoverSection.model_validate(recipe["recover"] | recipe["arms"]["dire"]["overrides"]["recover"]).bank
    text = (folder / "dire_plug_r_toy" / "method.py").read_text()
    assert not {"PASS_FLAG", "FILE_NAME", "ChunkedPlan"} & set(re.findall(r"\w+", text))
    assert 'calls = ("watch", "labels", "start", "term", "step_done")' in text
    assert lint(folder) == ""
    install_package(folder, monkeypatch)
    left = {name: value for name, value in VALUES.items() if name not in ("PASS_FLAG", "FILE_NAME")}
    fill(folder, left)
    assert "r-toy is incomplete: 5 calls to insert" in cli("verify", "r-toy").err
