"""A user's own images, and a package's dataset: from the command line to a comparison."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from support.cli import Cli, install
from support.own_images import SHAPES, write_photos
from support.small_run import read_rows, run_folders
from support.third_party_plugin import entry_points_text, offer, write

from dire_plug import plugins
from dire_plug.data import class_count, load, names
from dire_plug.errors import DirePlugError
from dire_plug.files import read_json
from dire_plug.pipeline import Request, plan_run
from dire_plug.pipeline.request import say_colour_blind, with_data

ARMS = "baseline,dire,random,rded,herding"
DATASETS = '''\
"""A third party's datasets: one of tensors, one of files."""

import torch

from dire_plug.api.dataset import FileDataset, ImageDataset

LEVELS = (10, 200)


class Greys(ImageDataset):
    classes = ("dark", "light")
    size = 8
    how = "ask its authors"
    layout = "greys.txt"

    def missing(self, folder):
        return () if (folder / "greys.txt").is_file() else ("greys.txt",)

    def read(self, folder):
        labels = torch.arange(8) % 2
        pixels = torch.tensor(LEVELS, dtype=torch.uint8)[labels].view(-1, 1, 1, 1).expand(-1, 1, 8, 8)
        return (pixels, labels), (pixels[:2], labels[:2])


class Shapes(FileDataset):
    classes = ("circle", "square")
    size = 12

    def files(self, folder):
        found = [(path, label) for label, name in enumerate(self.classes) for path in folder.glob(f"{name}/*")]
        return found[1::2], found[::2]


class Wrong(ImageDataset):
    classes = ("dark", "light")
    size = 8

    def read(self, folder):
        good = torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.arange(4) % 2
        return {answers}
'''
POINTS = {"greys": "leaves_data:Greys", "shapes": "leaves_data:Shapes", "wrong": "leaves_data:Wrong"}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_photos(tmp_path / "photos", count=10)


Install = Callable[..., Path]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Return a function that installs the package, with what its dataset `wrong` answers and its entry points."""

    def make(answers: str = "good, good", points: dict[str, str] | None = None) -> Path:
        site = tmp_path / "site"
        write(site / "leaves_data.py", DATASETS.replace("{answers}", answers))
        offer(site, "leaves_data", entry_points_text({"dire_plug.datasets": points or POINTS}))
        install(site, monkeypatch)
        monkeypatch.delitem(__import__("sys").modules, "leaves_data", raising=False)
        return site

    return make


# A folder.


def test_a_folder_of_images_goes_to_a_comparison(cli: Cli, bare_home: Path, photos: Path, recipe: Path) -> None:
    line = ("compare", "sre2l", "--recipe", recipe, "--engine", "native", "--device", "cpu", "--arms", ARMS)
    own = ("--real", photos, "--set", "dataset.size=8", "--set", "dataset.limit=null")
    answer = cli(*line, *own)
    assert answer.code == 0, answer.err
    rows = {row[0]: row for row in read_rows(answer.out) if row[0] in ARMS.split(",")}
    assert list(rows) == ARMS.split(",")
    provenances = [read_json(folder / "provenance.json") for folder in run_folders(bare_home)]
    assert {tuple(one["classes"]) for one in provenances} == {SHAPES}
    assert len({one["dataset"] for one in provenances}) == 1
    assert len(list((bare_home / "store").rglob("pixels.bin"))) == 1
    # elsewhere they are the same images, so nothing is made again
    moved = photos.rename(photos.with_name("moved"))
    again = cli(*line, "--real", moved, *own[2:])
    assert again.code == 0, again.err
    assert len(run_folders(bare_home)) == len(provenances)
    (run,) = [folder for folder in run_folders(bare_home) if folder.name.startswith("random-")]
    measured = cli("measure", run / "images", "--real", moved, "--recipe", recipe, *own[2:], "--device", "cpu")
    assert measured.code == 0, measured.err
    assert f"real: folder moved, {8 * len(SHAPES)} of 8 pixels" in measured.out
    exported = cli("export", run.name, "--as", "huggingface", "--to", moved.with_name("set"))
    card = (moved.with_name("set") / "README.md").read_text()
    assert "--arm random --seed 0 --set 'dataset.path=\"PATH/TO/" in card
    assert "real images, nothing synthesized" in card
    (line,) = re.findall(r"^measure: +dire-plug (.*)$", exported.out, re.MULTILINE)
    assert f"--set 'dataset.path=\"{photos.parent}" in line
    report = cli("report", run.name, "--device", "cpu")
    assert report.code == 0, report.err


def test_networks_that_see_grey_alone_are_said_where_images_have_colours(
    bare_home: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = ("dataset.name=folder", f"dataset.path={photos}", "dataset.size=8", "dataset.limit=null")
    say_colour_blind(plan_run(Request("sre2l", engine="native")), load("digits"))
    assert "warning" not in capsys.readouterr().err
    for _ in range(2):
        with_data(plan_run(Request("sre2l", engine="native", settings=own)))
    told = capsys.readouterr().err
    assert told.count("warning: folder photos has colours, and networks of the recipe 'quick' see grey alone") == 1
    assert "those that see colours: --recipe own, or --set squeeze.teacher.architecture=resnet-small " in told
    changes = re.findall(r"--set '?([^ =]+=(?:\[[^]]*\]|\S+))", told)
    assert len(changes) == 3
    with_data(plan_run(Request("sre2l", engine="native", settings=(*own, *changes))))
    with_data(plan_run(Request("sre2l", recipe="own", engine="native", settings=own)))
    assert "warning" not in capsys.readouterr().err


def test_a_dry_run_counts_the_classes(cli: Cli, bare_home: Path, photos: Path) -> None:
    answer = cli("run", "sre2l", "--real", photos, "--set", "dataset.size=32", "--dry-run")
    assert answer.code == 0, answer.err
    assert ["dataset.path", str(photos), "--set"] in [row[:3] for row in read_rows(answer.out)]
    assert "plan: 10 passes × 1 batch × 300 steps" in answer.out


def test_a_relative_path_is_kept_whole(
    cli: Cli, bare_home: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos.parent)
    answer = cli("run", "sre2l", "--real", "./photos", "--set", "dataset.size=32", "--dry-run")
    assert ["dataset.path", str(photos)] in [row[:2] for row in read_rows(answer.out)]


def test_the_home_of_an_unknown_user_is_an_error(cli: Cli, bare_home: Path) -> None:
    answer = cli("run", "sre2l", "--real", "~nobody-of-this-name/photos", "--dry-run")
    assert answer.code == 2
    assert "dataset.path: there is no user of this name, whose home '~' would be" in answer.err


def test_the_native_engine_takes_more_classes_than_the_script(
    cli: Cli, bare_home: Path, tmp_path: Path, recipe: Path
) -> None:
    many = write_photos(tmp_path / "many", count=3, classes=tuple(f"{number:03d}" for number in range(103)))
    line = ("run", "sre2l", "--recipe", recipe, "--real", many, "--ipc", 1, "--device", "cpu")
    sizes = ("--set", "dataset.size=8", "--set", "dataset.limit=null", "--set", "recover.flags.iteration=1")
    refused = cli(*line, *sizes)
    assert refused.code == 2
    assert "squeeze.outputs: 100 outputs can't tell the 103 classes of folder apart; set squeeze." in refused.err
    upstream = cli(*line, *sizes, "--set", "squeeze.outputs=103", "--engine", "upstream")
    assert "SRe2L's script 'cifar' takes up to 100 classes. Upstream's scripts for 103 classes: " in upstream.err
    assert "sre2l tiny, imagenet" in upstream.err
    few = cli(*line, *sizes, "--set", "squeeze.outputs=103")
    assert few.code == 2
    assert "measure.nearest_k: 5 neighbours take 6 images, but class '000' of folder many has 2 training" in few.err
    answer = cli(*line, *sizes, "--set", "squeeze.outputs=103", "--set", "measure.nearest_k=1")
    assert answer.code == 0, answer.err
    (run,) = run_folders(bare_home)
    assert read_json(run / "metrics.json")["engine"] == "native"
    assert len(list((run / "images").rglob("*.jpg"))) == 103


@pytest.mark.parametrize("method", ["infer", "g-vbsm", "mtt", "dm"])
def test_a_script_of_fixed_classes_says_which_take_the_dataset(
    cli: Cli, bare_home: Path, photos: Path, method: str
) -> None:
    answer = cli("run", method, "--real", photos, "--set", "dataset.size=32", "--dry-run")
    assert answer.code == 2
    assert "dataset: folder has 3 classes, and " in answer.err
    assert "takes just 10" in answer.err
    assert "Upstream's scripts for 3 classes: cda " in answer.err
    assert "The native engine takes any number: sre2l cifar (demonstrations only)" in answer.err


def test_too_few_images_for_the_arms_are_told(cli: Cli, bare_home: Path, photos: Path, recipe: Path) -> None:
    line = ("run", "sre2l", "--recipe", recipe, "--real", photos, "--set", "dataset.size=8", "--arm", "random")
    answer = cli(*line, "--set", "dataset.limit=null", "--ipc", 9, "--device", "cpu")
    assert answer.code == 2
    assert "class 'circle' of folder photos has 8 training images, 9 per class were asked for" in answer.err
    assert not (bare_home / "store" / "network").exists()


def test_a_split_of_its_own_takes_no_draw(cli: Cli, bare_home: Path) -> None:
    answer = cli("run", "sre2l", "--set", "dataset.split_seed=1", "--dry-run")
    assert answer.code == 2
    assert "dataset: test_fraction and split_seed are for 'folder'; digits has its own split" in answer.err


# A package.


def test_a_packages_dataset_is_one_by_name(package: Install, cli: Cli, bare_home: Path, tmp_path: Path) -> None:
    site = package()
    assert {"greys", "shapes"} <= set(names())
    assert class_count("greys") == 2
    root = tmp_path / "data"
    with pytest.raises(
        DirePlugError, match=r"greys was not found\. Looked for greys\.txt in\n.*greys.*\n.*ask its authors"
    ):
        load("greys", root=root)
    write(root / "greys" / "greys.txt", "")
    found = load("greys", root=root)
    assert found.train.images()[:, 0, 0, 0].tolist() == [10, 200] * 4
    assert load("greys", root=root, size=16, limit=2).train.images().shape == (2, 3, 16, 16)
    write_photos(root / "shapes", count=6)
    files = load("shapes", root=root)
    assert (files.classes, len(files.train), len(files.test), files.size) == (("circle", "square"), 6, 6, 12)
    assert ["dataset", "greys", "leaves_data", "leaves_data:Greys"] in read_rows(cli("list", "plugins").out)
    assert ["greys", "yes", str(root / "greys")] in read_rows(cli("doctor", "--data-root", root).out)
    with (site / "leaves_data.py").open("a") as file:
        file.write("# other code\n")
    assert load("greys", root=root).digest != found.digest
    assert plugins.code_of("datasets", "greys") == plugins.code_of("datasets", "shapes")


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        (
            "good, (good[0].float(), good[1])",
            "images must be uint8, [N, 3 or 1, h, h]; they are torch.float32, [4, 1, 8, 8]",
        ),
        ("good, (good[0], good[1][:3])", "labels must be whole numbers, [4]; they are torch.int64, [3]"),
        ("good, (good[0], good[1] + 1)", "each split must hold images of the labels 0 to 1, all of them"),
        ("1 / 0", "ZeroDivisionError"),
        ("good", "dataset 'wrong'"),
    ],
)
def test_what_a_packages_dataset_answers_is_checked(package: Install, tmp_path: Path, answers: str, words: str) -> None:
    package(answers)
    (tmp_path / "wrong").mkdir()
    with pytest.raises(DirePlugError) as caught:
        load("wrong", root=tmp_path)
    assert words in str(caught.value)
    assert "wrong" in str(caught.value)


def test_a_package_cannot_take_the_name_of_ours(package: Install) -> None:
    package(points={"digits": "leaves_data:Greys"})
    with pytest.raises(DirePlugError, match="leaves_data:Greys offers a dataset 'digits', as dire-plug itself does"):
        names()


def test_an_entry_point_that_is_no_dataset_is_refused(package: Install) -> None:
    package(points={"leaves": "leaves_data:LEVELS"})
    with pytest.raises(DirePlugError, match=r"plugin 'leaves' \(leaves_data:LEVELS\): its dataset cannot be made"):
        class_count("leaves")
