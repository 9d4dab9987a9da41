"""Bad input of every kind: a message that says what, where and what to do, exit code 2, nothing finished is lost."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from support.cli import Cli
from support.small_run import (
    forget,
    native,
    only_run,
    outcome,
    read_rows,
    run_folders,
    start_process,
    when_made,
    write_recipe,
)
from support.third_party_plugin import SCRIPT, ThirdParty

from dire_plug.errors import RunBusyError
from dire_plug.files import read_json
from dire_plug.models import build
from dire_plug.pipeline import run as pipeline
from dire_plug.pipeline import run_arm
from dire_plug.plugins import load_adapter
from dire_plug.store import cleaning
from dire_plug.upstream.source.vendor import vendored_folder

NATIVE = ("--engine", "native")


# Names and recipes.


METHODS = "cda, cv-dd, delt, dm, dwa, edc, fadrm, g-vbsm, infer, lpld, mtt, sre2l, sre2l-pp"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("run sre2", f"unknown method 'sre2' (did you mean 'sre2l'?); known: {METHODS}"),
        ("vendor sre2", f"unknown method 'sre2' (did you mean 'sre2l'?); known: {METHODS}"),
        ("compare xyz", f"unknown method 'xyz'; known: {METHODS}"),
        ("run sre2l --recipe cifar100", "(did you mean 'cifar-100'?); known: cifar-10, cifar-100, "),
        ("run sre2l --recipe nowhere.yaml", "recipe nowhere.yaml: no such file"),
        ("run sre2l --recipe ~no-one/my.yaml", "recipe: ~no-one/my.yaml: there is no user of this name"),
        (
            "run sre2l --engine native --set squeeze.teacher.checkpoint=~no-one/t.pt",
            "checkpoint: ~no-one/t.pt: there is no user of this name",
        ),
        ("run sre2l --preset relased", "no preset 'relased' (did you mean 'released'?); this recipe has "),
        (
            "run sre2l --arm controll",
            "no arm 'controll' (did you mean 'control'?)\n  this recipe has: baseline, ",
        ),
        ("compare sre2l --arms contrl,dire", "no arm 'contrl' (did you mean 'control'?)"),
        ("run sre2l --set epochs", "--set epochs: expected KEY.KEY=VALUE, for example --set recover.flags.lr=0.1"),
        (
            "compare sre2l --set evaluate.protocol=hard-labels",
            "padding: no key of hard-labels, but of on-the-fly and others; take a copy of the recipe without it",
        ),
        ("run sre2l --set evaluate.epohcs=3", "evaluate.epohcs: unknown key (did you mean 'epochs'?) (from --set)"),
        ("run sre2l --set evaluate.epochs=no", "evaluate.epochs: must be a whole number (is 'no') (from --set)"),
        ("run sre2l --set evaluate.epochs=0", "evaluate.epochs: must be at least 1 (is 0) (from --set)"),
        ("run sre2l --set evaluate.lr=.inf", "evaluate.lr: must be a finite number (is inf) (from --set)"),
        ("run sre2l --set recover.script=!!binary", "line 1: tags (!!binary) aren't supported; write the plain value"),
        ("run sre2l --set evaluate.lr=!!bool", "line 1: tags (!!bool) aren't supported"),
        ("run sre2l --set evaluate.lr=!!timestamp", "line 1: tags (!!timestamp) aren't supported"),
        ('run sre2l --set recipe="\\ud800"', r"line 1: '\ud800' isn't Unicode text"),
        ("run sre2l --set evaluate.lr=\udcff", r"--set evaluate.lr=\udcff: "),
        ("run sre2l --recipe \udcff.yaml", r"recipe \udcff.yaml: no such file"),
        ("run dm --ipc 1000000 --dry-run", "ipc: must be at most 10000 (is 1000000)"),
        ("run dm --set ipc=9223372036854775808 --dry-run", "ipc: must be at most 10000"),
        ("run sre2l --set title=x", "title: can't be changed here (from --set)"),
        ("run sre2l --set recover.flags.exp-name=x", "exp-name: can't be set in a recipe: the tool chooses where"),
        ("run sre2l --dire --set regularizers.dire.r_x=1", "regularizers.dire.r_x: unknown key (did you mean 'r_"),
        (
            "run sre2l --dire --set regularizers.drie.r_c=1",
            "regularizers.drie: no regularizer of this name is installed",
        ),
        (
            "run sre2l --set evaluate.protocol=on-the-flie",
            "no protocol is named 'on-the-flie' (did you mean 'on-the-fly'",
        ),
        ("run sre2l --set dataset.name=digitz", "dataset: 'digitz' is unknown (did you mean 'digits'?)"),
        ("run sre2l --set evaluate.students=[resnet-smal]", "'resnet-smal' is unknown (did you mean 'resnet-small'?)"),
        (
            "run sre2l --set squeeze.teacher.architecture=resnet-19",
            "squeeze.teacher.architecture: the script 'cifar' takes",
        ),
    ],
)
def test_a_wrong_name_or_value_is_told_with_the_nearest_right_one(
    cli: Cli, bare_home: Path, line: str, message: str
) -> None:
    answer = cli(*line.split())
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("error: ")
    assert message in answer.err
    assert not bare_home.exists()


def test_all_problems_of_a_recipe_are_told_at_once(cli: Cli, bare_home: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "upstream": {"commit": "8d00cba"},
        "evaluate": {"epochs": 0, "studentz": ["resnet-small"]},
        "recover": {"flags": {"lr": "fast", "iterations": 3}},
        "arms": {"dire": {"regularizers": {"dier": {"r_c": 1}}}},
    }
    answer = cli("run", "sre2l", "--recipe", write_recipe(tmp_path / "bad.yaml", changes))
    assert (answer.code, answer.out) == (2, "")
    lines = answer.err.splitlines()
    assert lines[0] == "error: recipe 'bad' has 6 problems:"
    assert sorted(line.strip().partition(" (is")[0] for line in lines[1:]) == [
        "arms.dire.regularizers.dier: no regularizer of this name is installed (did you mean 'dire'?); known: "
        "centred-cd, dire, dpp, energy, facility-location, soft-chamfer",
        "evaluate.epochs: must be at least 1",
        "evaluate.studentz: unknown key (did you mean 'students'?)",
        "recover.flags.iterations: unknown key (did you mean 'iteration'?)",
        "recover.flags.lr: must be a number",
        "upstream.commit: must be the full commit, 40 hex digits in quotes",
    ]
    assert not bare_home.exists()


def test_another_commit_than_the_patchs_is_refused(cli: Cli, bare_home: Path, tmp_path: Path) -> None:
    path = write_recipe(tmp_path / "bad.yaml", {"upstream": {"commit": "0" * 40}})
    answer = cli("run", "sre2l", "--recipe", path)
    assert answer.code == 2
    fits = "8d00cba364bfa34aa1f5a8107dc041ae1be8ebe6"
    assert f"  upstream.commit: the patch of sre2l fits {fits} only (is '{'0' * 40}')\n" in answer.err


def test_a_recipe_that_is_no_yaml_is_refused_with_the_line(cli: Cli, bare_home: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("title: x\nipc: [1\nmethod: sre2l\n")
    answer = cli("run", "sre2l", "--recipe", path)
    assert answer.code == 2
    assert answer.err.startswith(f"error: {path}: line 3: ")


def test_an_unknown_device_is_refused_before_anything_is_made(cli: Cli, bare_home: Path, recipe: Path) -> None:
    for device in ("tpu9", "meta", "cuda:99"):
        answer = cli("run", "sre2l", "--recipe", recipe, *NATIVE, "--device", device)
        assert (answer.code, answer.out) == (2, "")
        assert answer.err.startswith(f"error: --device {device}: torch can't use it: ")
    assert not bare_home.exists()


# Checkpoints.


def save_checkpoint(path: Path, architecture: str, *, outputs: int = 100, stem: str = "small") -> Path:
    """Write untrained weights as another program would."""
    torch.save({"state_dict": build(architecture, outputs=outputs, stem=stem).state_dict()}, path)
    return path


def write_text(path: Path) -> Path:
    path.write_text("these are no weights\n")
    return path


def write_code(path: Path) -> Path:
    torch.save({"model": Path("x")}, path)
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda path: save_checkpoint(path, "convnet-small"),
            "holds a convnet-small with 100 outputs and the small stem; expected resnet-small with 100 outputs",
        ),
        (
            lambda path: save_checkpoint(path, "resnet-18", stem="imagenet"),
            "holds a resnet-18 with 100 outputs and the imagenet stem; expected resnet-small with 100 outputs",
        ),
        (
            lambda path: save_checkpoint(path, "resnet-small", outputs=10),
            "holds a resnet-small with 10 outputs and the small stem; expected resnet-small with 100 outputs",
        ),
        (write_text, "isn't a checkpoint of torch.save's. Get the file again"),
        (write_code, "which could run code, so it is not loaded. Save its state dict alone with torch.save"),
        (lambda path: path, "is not a file; correct the path, or leave it out to train"),
    ],
)
def test_a_wrong_checkpoint_is_refused_by_what_it_holds(
    cli: Cli, home: Path, recipe: Path, tmp_path: Path, make: Any, message: str
) -> None:
    path = make(tmp_path / "weights.pt")
    setting = f"squeeze.teacher.checkpoint={path}"
    answer = cli("run", "sre2l", "--recipe", recipe, *NATIVE, "--set", setting)
    assert answer.code == 2
    assert f"{path}" in answer.err
    assert message in answer.err


def test_the_right_checkpoint_is_taken(cli: Cli, home: Path, recipe: Path, tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "weights.pt", "resnet-small")
    setting = f"squeeze.teacher.checkpoint={path}"
    answer = cli("run", "sre2l", "--recipe", recipe, *NATIVE, "--set", setting)
    assert answer.code == 0, answer.err


# Data.


def test_an_image_truncated_between_recover_and_evaluate_is_made_again(
    cli: Cli, home: Path, recipe: Path, baseline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = ("run", "sre2l", "--recipe", recipe, *NATIVE)

    def interrupt(*given: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "evaluate_arm", interrupt)
        cli(*line)
    folder = only_run(home)
    path = folder / "images" / "new003" / "class003_id001.jpg"
    path.chmod(0o644)
    os.truncate(path, 300)  # the store's file too, of which it is a link
    forget()
    answer = cli(*line)
    assert answer.code == 0, answer.err
    told = [line for line in answer.err.splitlines() if "was damaged, or edited; it is made again" in line]
    assert [line.partition("/")[0] for line in told] == ["store: pass"]
    assert outcome(folder) == outcome(baseline)


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    """A folder with a made-up Tiny-ImageNet, of one image a class."""
    image = Image.new("RGB", (64, 64))
    for part in ("train", "val"):
        for number in range(200):
            folder = tmp_path / "data" / "tiny-imagenet-200" / part / f"n{number:03d}"
            folder.mkdir(parents=True)
            image.save(folder / "one.jpeg")
    return tmp_path / "data"


def test_an_empty_class_is_named(cli: Cli, bare_home: Path, data_root: Path) -> None:
    folder = data_root / "tiny-imagenet-200" / "train" / "n123"
    (folder / "one.jpeg").unlink()
    answer = cli("run", "sre2l", "--recipe", "tiny-imagenet", "--arm", "random", "--data-root", data_root)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith(f"error: {folder}: the class folder holds no image")
    assert answer.err.endswith("unpack the set again\n")
    assert not bare_home.exists()


def test_a_truncated_training_image_is_named(cli: Cli, bare_home: Path, data_root: Path) -> None:
    path = data_root / "tiny-imagenet-200" / "train" / "n123" / "one.jpeg"
    path.write_bytes(path.read_bytes()[:400])
    answer = cli("run", "sre2l", "--recipe", "tiny-imagenet", "--arm", "random", "--data-root", data_root)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith(f"error: {path}: the image cannot be decoded: ")


def test_a_dataset_that_is_not_there_is_told_with_the_way_to_get_it(cli: Cli, bare_home: Path, tmp_path: Path) -> None:
    answer = cli("run", "sre2l", "--recipe", "tiny-imagenet", "--arm", "random", "--data-root", tmp_path)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("error: tiny-imagenet was not found. Looked for ")
    assert str(tmp_path / "tiny-imagenet-200") in answer.err
    assert "To get it: unpack http" in answer.err


@pytest.mark.parametrize("command", ["run sre2l", "measure SET --real digits", "doctor"])
def test_a_data_root_that_does_not_exist_is_not_made(cli: Cli, bare_home: Path, tmp_path: Path, command: str) -> None:
    answer = cli(*command.split(), "--data-root", tmp_path / "typo")
    assert (answer.code, answer.out) == (2, "")
    assert f"'--data-root': Directory '{tmp_path / 'typo'}' does not exist." in answer.err
    assert not (tmp_path / "typo").exists()


@pytest.mark.parametrize("command", ["run sre2l --recipe tiny-imagenet --arm random", "doctor"])
def test_a_data_folder_of_the_environment_is_not_made_either(
    cli: Cli, bare_home: Path, tmp_path: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIRE_PLUG_DATA", str(tmp_path / "typo"))
    answer = cli(*command.split())
    assert (answer.code, answer.out) == (2, "")
    assert f"DIRE_PLUG_DATA: Directory '{tmp_path / 'typo'}' does not exist." in answer.err
    assert not (tmp_path / "typo").exists()


def test_more_images_than_a_class_has_can_not_be_drawn(cli: Cli, home: Path, recipe: Path) -> None:
    answer = cli("run", "sre2l", "--recipe", recipe, "--arm", "random", "--ipc", "11")
    assert answer.code == 2
    assert "error: class '0' of digits has 10 training images, 11 per class were asked for; lower the IPC" in answer.err
    answer = cli("run", "sre2l", "--recipe", recipe, *NATIVE, "--ipc", "11", "--set", "recover.start=real")
    assert answer.code == 2
    assert "class '0' of digits has 10 training images, 11 per class were asked for; lower the IPC" in answer.err


# Upstream's code.


def test_a_tampered_checkout_is_refused_and_so_is_a_tampered_patch(
    cli: Cli, third_party: ThirdParty, bare_home: Path
) -> None:
    assert cli("vendor", "toy-net").code == 0
    tree = vendored_folder(load_adapter("toy-net"))
    script, line = tree / SCRIPT, ("run", "toy-net", "--recipe", "small")
    published = script.read_text()
    script.write_text(published.replace("clamp_(-2, 2)", "clamp_(-9, 9)"))
    for command in (line, ("vendor", "toy-net")):
        answer = cli(*command)
        assert answer.code == 2
        assert answer.err.startswith(f"error: {script}: was changed\n")
        assert f"remove the folder {tree} and run `dire-plug vendor` again" in answer.err
    assert ["toy-net", "damaged"] in [cells[:2] for cells in read_rows(cli("doctor").out)]
    script.write_text(published)
    patch = third_party.patch.read_text()
    try:
        third_party.patch.write_text(patch.replace("bridge.loss(cost, images", "bridge.loss(0 * cost, images"))
        answer = cli("vendor", "toy-net")
        assert answer.code == 2
        assert answer.err.startswith(f"error: {third_party.patch}:")
        third_party.patch.write_text(patch.replace("step=step)\n", "step=step)  \n", 1))
        answer = cli("vendor", "toy-net")
        assert answer.code == 2
        assert "bridge.patch the file must have the blob hash " in answer.err
        assert "isn't vendored; get it with: dire-plug vendor toy-net" in cli(*line).err
    finally:
        third_party.patch.write_text(patch)
    assert cli("vendor", "toy-net", "--offline").code == 0


# Files and leases.


def test_an_output_path_below_a_regular_file_is_refused(cli: Cli, home: Path, recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    answer = cli("run", "sre2l", "--recipe", recipe, *NATIVE, "--out", tmp_path / "file" / "runs")
    assert (answer.code, answer.out) == (2, "")
    assert "the folder cannot be made: Not a directory at " in answer.err
    assert answer.err.endswith(f" at {tmp_path / 'file'}\n")
    assert (tmp_path / "file").read_text() == "kept"


def test_a_home_that_is_a_regular_file_is_refused(
    cli: Cli, recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("kept")
    monkeypatch.setenv("DIRE_PLUG_HOME", str(tmp_path / "file"))
    answer = cli("run", "sre2l", "--recipe", recipe, *NATIVE)
    assert (answer.code, answer.out) == (2, "")
    assert f"the folder cannot be made: Not a directory at {tmp_path / 'file'}" in answer.err


@pytest.mark.parametrize("allowed", [0, 3, 6, 9, 12, 15])
def test_a_full_disk_loses_nothing_and_the_rerun_completes(
    cli: Cli, home: Path, recipe: Path, baseline: Path, monkeypatch: pytest.MonkeyPatch, allowed: int
) -> None:
    line = ("run", "sre2l", "--recipe", recipe, *NATIVE)
    done, flush = 0, os.fsync

    def fill(handle: int) -> None:
        nonlocal done
        if done >= allowed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done += 1
        flush(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fill)
        answer = cli(*line)
    assert answer.code == 2
    assert "cannot be written: No space left on device. The previous content is kept." in answer.err
    renewed = ("status.json", "provenance.json")
    written = [path for path in home.rglob("*.json") if path.name not in renewed and "work" not in path.parts]
    before, made = {path: path.read_bytes() for path in written}, when_made(home)
    hidden = {path.name for path in home.rglob(".*") if path.is_file()}
    assert hidden <= {cleaning.MARK}, "temporary files stayed behind"
    assert cli(*line).code == 0
    assert outcome(only_run(home)) == outcome(baseline)
    assert {path: path.read_bytes() for path in before} == before
    after = when_made(home)
    assert {name: after[name] for name in made} == made


def test_a_disk_that_is_full_while_images_are_saved_is_told(
    cli: Cli, home: Path, recipe: Path, baseline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(self: Image.Image, path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    line = ("run", "sre2l", "--recipe", recipe, *NATIVE)
    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", fill)
        answer = cli(*line)
    assert answer.code == 2
    assert "class000_id000.jpg: the image cannot be written: [Errno 28] No space left on device" in answer.err
    status = read_json(only_run(home) / "status.json")
    assert (status["state"], status["stage"]) == ("failed", "recover")
    assert cli(*line).code == 0
    assert outcome(only_run(home)) == outcome(baseline)


@pytest.fixture
def holder() -> Iterator[Any]:
    """Return a function that starts a process which holds a lease; it is killed at the end of the test."""
    program = (
        "import sys; from pathlib import Path; from dire_plug.store.lease import hold\n"
        "with hold(Path(sys.argv[1]), what='it'):\n    print('held', flush=True)\n    sys.stdin.read()"
    )
    processes = []

    def start(lease: Path) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(lease)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        processes.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_a_run_that_a_live_process_works_on_is_refused_without_waiting(
    home: Path, recipe: Path, baseline: Path, holder: Any
) -> None:
    folder = home / baseline.relative_to(baseline.parents[3])
    process = holder(folder.with_name(f".{folder.name}.lease"))
    with pytest.raises(RunBusyError) as caught:
        run_arm(native(recipe, wait=False))
    assert str(caught.value).startswith(f"the run {folder} is held by process {process.pid} on ")
    assert "; wait for it to end (a lease expires 5 minutes after its last renewal: " in str(caught.value)
    assert run_folders(home) == []
    process.kill()
    process.communicate()
    run_arm(native(recipe, wait=False))
    assert outcome(folder) == outcome(baseline)


def test_a_command_says_whom_it_waits_for_and_takes_over_in_the_end(
    home: Path, recipe: Path, baseline: Path, holder: Any
) -> None:
    folder = home / baseline.relative_to(baseline.parents[3])
    other = holder(folder.with_name(f".{folder.name}.lease"))
    process = start_process("run", "sre2l", "--recipe", recipe, *NATIVE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(f"waiting: the run {folder} is held by process {other.pid} on ")
        assert run_folders(home) == []
        other.kill()
        other.communicate()
        output, _ = process.communicate()
    finally:
        process.kill()
    assert process.returncode == 0, output
    assert outcome(folder) == outcome(baseline)


def test_a_damaged_status_file_is_named(cli: Cli, finished_home: Path, recipe: Path) -> None:
    path = only_run(finished_home) / "status.json"
    path.write_text("{")
    answer = cli("run", "sre2l", "--recipe", recipe, *NATIVE)
    assert answer.code == 2
    assert answer.err.startswith(f"error: {path}: cannot be read as JSON: ")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metrics.json", "[]"),
        ("metrics.json", "{}"),
        ("metrics.json", '{"accuracy": {}, "diversity": {"T": null}, "arm": "a", "seed": 0, "ipc": 1, "engine": "x"}'),
        ("metrics.json", '{"accuracy": [], "diversity": []}'),
        ("metrics.json", "[" * 100_000),
        ("provenance.json", "[]"),
        ("provenance.json", "{}"),
        ("provenance.json", '{"engine": 1, "commit": 1, "patch": 1, "dataset": 1, "seed": 1, "sessions": [{}]}'),
        ("status.json", "[]"),
    ],
)
def test_a_damaged_file_of_a_run_is_named_when_it_is_shown(
    cli: Cli, bare_home: Path, baseline: Path, name: str, content: str
) -> None:
    folder = bare_home / "runs" / "sre2l" / "tiny" / baseline.name
    shutil.copytree(baseline, folder)
    (folder / name).write_text(content)
    answer = cli("show", folder)
    assert answer.code == 2
    assert f"error: {folder / name}: " in answer.err


@pytest.mark.parametrize("name", ["images", "images.safetensors", "plan.json", "recipe.yaml", "artefacts.json"])
def test_what_a_finished_run_lacks_is_named_when_it_is_shown(
    cli: Cli, finished_home: Path, recipe: Path, name: str
) -> None:
    folder = only_run(finished_home)
    assert cli("show", folder).code == 0
    path = folder / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    answer = cli("show", folder)
    assert (answer.code, answer.err) == (
        2,
        f"error: {folder}: finished, but lacks {name}; run its command again, which puts it back\n",
    )
    assert cli("run", "sre2l", "--recipe", recipe, *NATIVE).code == 0
    assert cli("show", folder).code == 0
