"""`dire-plug measure` and `evaluate`: sets that others made, and finished runs, on the tiny recipe's digits."""

import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from support.cli import Cli
from support.small_run import only_run, read_rows, wait_until
from support.stub_run import image_set
from torch import Generator, Tensor

from dire_plug import ui
from dire_plug.files import read_json
from dire_plug.measures import read_values, set_measures
from dire_plug.models.pretrained import Pretrained
from dire_plug.recipe import read_yaml
from dire_plug.sets.evaluate import evaluate_set, our_name
from dire_plug.sets.measure import measure_set
from dire_plug.sets.opened import OpenedSet, SetRequest, fit_protocol, open_set
from dire_plug.stages import evaluate as evaluate_stage
from dire_plug.stages.artefacts import name_networks
from dire_plug.stages.embed import ensure_embeddings
from dire_plug.stages.measure import measure_in
from dire_plug.stages.squeeze import missing_networks, network_file
from dire_plug.store.lease import hold
from dire_plug.store.runs import RunFolder
from dire_plug.training.protocols import train_student

CLASSES = 10
STUDENT = ("convnet-small",)
MEAN, STD = "0.4914,0.4822,0.4465", "0.2023,0.1994,0.2010"
"""By which SRe2L's script normalises."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of noise in RDED's layout, two images of each digit, and below the name of its settings."""
    root = tmp_path_factory.mktemp("exp") / "digits_ipc2_cr5" / "syn_data"
    images = torch.randint(0, 256, (CLASSES * 2, 8, 8, 3), generator=Generator().manual_seed(0), dtype=torch.uint8)
    for index, image in enumerate(images):
        label, number = divmod(index, 2)
        folder = root / f"{label:05d}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.numpy()).save(folder / f"class{label:05d}_id{number:05d}.jpg")
    return root


@pytest.fixture
def tree(made: Path, tmp_path: Path) -> Path:
    """A copy of the set that a test may change."""
    return shutil.copytree(made, tmp_path / "syn_data")


@pytest.fixture
def own_run(finished_home: Path) -> Path:
    """The finished run in a home of the test's own."""
    return only_run(finished_home)


def entries(home: Path, *kinds: str) -> dict[str, int]:
    """Return when each entry of these kinds was made."""
    files = [file for kind in kinds for file in home.glob(f"store/{kind}/*/entry.json")]
    return {f"{file.parent.parent.name}/{file.parent.name}": file.stat().st_mtime_ns for file in files}


def set_folders(home: Path) -> list[Path]:
    return sorted(file.parent for file in home.glob("runs/sets/*/status.json"))


# Measure.


def test_a_finished_runs_images_are_not_measured_again(
    cli: Cli, finished_home: Path, own_run: Path, tmp_path: Path
) -> None:
    made = entries(finished_home, "*")
    answer = cli("measure", own_run, "--json")
    assert answer.code == 0
    found, before = json.loads(answer.out), read_json(own_run / "metrics.json")["diversity"]
    diversity = {"diversity": before}
    assert found["measures"] == read_values(diversity, (*set_measures("T"), *set_measures("I")))
    assert (found["recipe"], found["nearest_k"], found["set"]["name"]) == ("sre2l/tiny", 5, own_run.name)
    assert found["real"] == {"dataset": "digits", "images": 100, "size": 8}
    assert entries(finished_home, "*") == made


def test_a_copy_of_a_runs_images_measures_as_the_run_did(
    cli: Cli, finished_home: Path, own_run: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(own_run / "images", tmp_path / "copy")
    made = entries(finished_home, "diversity")
    answer = cli("measure", copy, "--recipe", own_run / "recipe.yaml", "--json")
    assert answer.code == 0, answer.err
    found, before = json.loads(answer.out), read_json(own_run / "metrics.json")["diversity"]
    diversity = {"diversity": before}
    assert found["measures"] == read_values(diversity, (*set_measures("T"), *set_measures("I")))
    assert len(entries(finished_home, "diversity")) == len(made) + 2


def test_a_tree_of_rdeds_is_measured_beside_as_many_real_images(cli: Cli, home: Path, recipe: Path, made: Path) -> None:
    answer = cli("measure", made, "--real", "digits", "--recipe", recipe, "--nearest-k", 3)
    assert answer.code == 0
    # found in the store, and yet said
    assert re.findall(r"squeeze: (\w+) .* has \d+\.\d\d % test accuracy", answer.err) == ["teacher", "independent"]
    rows = read_rows(answer.out)
    first = "digits_ipc2_cr5/syn_data: 20 images of 10 classes, 2 each · real: digits, 100 of 8 pixels"
    assert answer.out.splitlines()[0] == first.replace("digits_ipc2_cr5", made.parent.name)
    titles = ["embedding", "coverage %", "per class %", "density", "precision %", "recall %", "Vendi", "per class"]
    assert [*titles, "similarity"] in rows
    named = [row[0] for row in rows if len(row) == 9]
    assert named[1:] == ["teacher", "teacher, real reference", "independent", "independent, real reference"]
    assert "folders are labelled by their numbers: 00000 is 0, 00009 9" in answer.out
    assert "neighbours: the 3 nearest of all 100 real training images" in answer.out


def test_what_real_images_cost_is_paid_once(cli: Cli, home: Path, recipe: Path, made: Path) -> None:
    first = cli("measure", made, "--recipe", recipe)
    of_real_images = ("embeddings", "radii", "reference")
    before = entries(home, *of_real_images)
    shutil.rmtree(home / "store" / "diversity")
    assert cli("measure", made, "--recipe", recipe).out == first.out
    assert entries(home, *of_real_images) == before
    assert len(entries(home, "diversity")) == 2


def test_one_embedding_trains_one_network_and_says_so(
    home: Path, recipe: Path, made: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(home / "store")
    found = measure_set(SetRequest(made, recipe=str(recipe)), embeddings=("independent", "independent"))
    assert list(found.diversity) == ["independent"]
    said = "measure: independent of the recipe sre2l/tiny isn't in the store; training it first\n"
    assert capfd.readouterr().err.startswith(said)
    assert [read_json(file)["role"] for file in home.glob("store/network/*/network.json")] == ["independent"]


def test_unequal_classes_are_measured_but_not_evaluated(cli: Cli, home: Path, recipe: Path, tree: Path) -> None:
    (tree / "00003" / "class00003_id00001.jpg").unlink()
    answer = cli("measure", tree, "--recipe", recipe, "--embedding", "teacher")
    assert answer.code == 0
    assert "19 images of 10 classes, 1 to 2 each" in answer.out
    assert "classes hold 1 to 2 images, the real reference 1 of each" in answer.out
    answer = cli("evaluate", tree, "--recipe", recipe)
    assert (answer.code, answer.out) == (2, "")
    assert "classes hold 1 to 2 images; students are compared at as many of each: --ipc 1 takes the first" in answer.err
    assert cli("measure", tree, "--recipe", recipe, "--embedding", "teacher", "--ipc", 1).out.startswith(
        f"{tree.parent.name}/syn_data: 10 images of 10 classes, 1 each"
    )


def sparse(images: Tensor) -> Tensor:
    """See every other pixel, in one channel."""
    scaled = images.float() / 255 if images.dtype == torch.uint8 else images
    return scaled[:, 0, ::2, ::2].flatten(1)


SPARSE = Pretrained("sparse", "0" * 64, 16, sparse)


def test_a_published_network_embeds_in_the_same_way(home: Path, recipe: Path, made: Path) -> None:
    opened = open_set(SetRequest(made, recipe=str(recipe)))
    found = measure_in(opened.run, SPARSE, image_set(opened.condensed.images, opened.condensed.labels))
    real = ensure_embeddings(opened.run, SPARSE)
    train = opened.run.dataset.train
    assert torch.equal(real.values, sparse(train.images())[real.indices])
    again = measure_in(opened.run, SPARSE, image_set(train.images(), train.labels))
    assert (again["coverage"], again["precision"], again["recall"]) == (1, 1, 1)
    assert 0 <= found["coverage"] < 1


def test_a_published_network_is_loaded_from_the_file_that_was_given(
    cli: Cli, home: Path, recipe: Path, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, dict[str, Any]]] = []

    def load(name: str, **keys: Any) -> Pretrained:
        asked.append((name, keys))
        return SPARSE

    monkeypatch.setattr("dire_plug.sets.measure.load_pretrained", load)
    answer = cli("measure", made, "--recipe", recipe, "--embedding", "clip", "--weights", "w.bin", "--offline")
    assert answer.code == 0
    assert asked == [("clip", {"device": torch.device("cpu"), "weights": Path("w.bin"), "offline": True})]
    assert [row[0] for row in read_rows(answer.out) if len(row) == 9] == ["embedding", "clip", "clip, real reference"]


def test_the_default_recipe_is_sre2ls_of_the_dataset(home: Path, made: Path) -> None:
    assert open_set(SetRequest(made, real="digits")).recipe == "sre2l/quick"
    other = open_set(
        SetRequest(made, real="digits", recipe="dwa/quick", settings=("dataset.size=8", "dataset.limit=50"))
    )
    assert (other.recipe, len(other.run.dataset.train)) == ("dwa/quick", 50)


# Bad input.


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("measure nowhere --real digits", "nowhere: no such file or folder; name a tree of class folders"),
        ("measure SET", "--real: which dataset is it condensed from? One of digits, fashion-mnist, "),
        ("measure SET --real digitz", "dataset: 'digitz' is unknown (did you mean 'digits'?)"),
        ("measure SET --real cifar-10 --recipe RECIPE", "--real cifar-10: the recipe sre2l/tiny is of digits"),
        (
            "measure SET --real digits --recipe quick",
            "--recipe quick: of which method? Write METHOD/NAME, such as sre2l/q",
        ),
        ("measure SET --recipe sre2l/quik", "no recipe 'quik'"),
        ("measure SET --recipe none.yaml", "--recipe none.yaml: no such file"),
        (
            "measure SET --recipe RECIPE --embedding techer",
            "--embedding techer: unknown embedding (did you mean",
        ),
        ("measure SET --recipe RECIPE --embedding torchvision:resnet5", "(did you mean 'torchvision:resnet50'?)"),
        ("measure SET --recipe RECIPE --weights w.pt", "belongs to one published network, but 0 are named"),
        ("measure SET --recipe RECIPE --set measure.nearest=3", "measure.nearest: unknown key"),
        ("measure SET --recipe RECIPE --space zca", "holds image files, which are pixels; leave it out"),
        ("measure SET --recipe RECIPE --space normalised", "--space normalised: by what? Add --normalised-by"),
        ("measure SET --recipe RECIPE --ipc 3", "the class has 2 images, --ipc 3 were asked for; lower it"),
        ("measure SET --recipe RECIPE --set dataset.size=16", "8×8 pixels, the real images of digits are 16×16 here"),
        ("measure SET --recipe RECIPE --device tpu9", "--device tpu9: torch can't use it"),
        (
            "evaluate SET --recipe RECIPE --student resnet-smal",
            "'resnet-smal' is unknown (did you mean 'resnet-small'?)",
        ),
        ("evaluate SET --recipe RECIPE --student resnet_18", "'resnet_18' is unknown (did you mean 'resnet-18'?)"),
        ("evaluate SET --recipe RECIPE --teacher none.pth", "none.pth is not a file"),
    ],
)
def test_bad_input_is_told_with_what_to_do(
    cli: Cli, home: Path, recipe: Path, made: Path, line: str, message: str
) -> None:
    names = {"SET": made, "RECIPE": recipe}
    answer = cli(*(names.get(word, word) for word in line.split()))
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("error: ")
    assert message in answer.err


def test_an_unfinished_run_is_refused(cli: Cli, own_run: Path) -> None:
    RunFolder(own_run).set_status("failed", stage="recover")
    answer = cli("measure", own_run)
    assert answer.code == 2
    assert "this run is failed, not finished; run its command again to the end" in answer.err


def test_a_run_without_images_is_refused(cli: Cli, own_run: Path) -> None:
    shutil.rmtree(own_run / "images")
    assert "this run keeps no images, as the arm full doesn't" in cli("evaluate", own_run).err


# Evaluate.


def test_a_finished_runs_student_is_found(cli: Cli, own_run: Path, finished_home: Path) -> None:
    made = entries(finished_home, "*")
    answer = cli("evaluate", own_run)
    assert answer.code == 0
    (folder,) = set_folders(finished_home)
    found, before = read_json(folder / "metrics.json"), read_json(own_run / "metrics.json")
    assert found["accuracy"] == before["accuracy"]
    assert found["networks"] == {"teacher": before["networks"]["teacher"]}
    assert folder.name.startswith(own_run.name)
    assert f"set folder: {folder}" in answer.out
    assert "students of ONE set" in answer.out
    assert "all students were finished before; nothing was run" in answer.out
    assert entries(finished_home, "*") == made
    provenance = read_json(folder / "provenance.json")
    assert provenance["run"] == own_run.name
    assert provenance["set"]["digest"] == found["set"]["digest"]


def test_a_copy_of_a_runs_images_gives_a_student_of_the_same_accuracy(
    cli: Cli, finished_home: Path, own_run: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(own_run / "images", tmp_path / "copy")
    made = entries(finished_home, "student")
    assert cli("evaluate", copy, "--recipe", own_run / "recipe.yaml").code == 0
    (folder,) = set_folders(finished_home)
    found = read_json(folder / "metrics.json")["accuracy"]
    assert found == read_json(own_run / "metrics.json")["accuracy"]
    assert len(entries(finished_home, "student")) == len(made) + 1


def test_more_students_go_on_in_the_same_folder(cli: Cli, home: Path, recipe: Path, made: Path) -> None:
    common = ("evaluate", made, "--real", "digits", "--recipe", recipe, "--epochs", 1, "--student", "convnet-small")
    assert cli(*common).code == 0
    (folder,) = set_folders(home)
    first = entries(home, "student")
    answer = cli(*common, "--student", "resnet-small", "--per-set", 2)
    assert set_folders(home) == [folder]
    assert first.items() <= entries(home, "student").items()
    assert len(entries(home, "student")) == len(first) + 3
    rows = [row for row in read_rows(answer.out) if row[0] in ("convnet-small", "resnet-small")]
    assert [row[:2] for row in rows] == [["convnet-small", "2"], ["resnet-small", "2"]]
    assert "±" in rows[0][2]
    assert "± is over the students of ONE set" in answer.out
    again = cli(*common)
    assert "all students were finished before; nothing was run" in again.out
    assert [row[:2] for row in read_rows(again.out) if row[0].endswith("-small")] == [["convnet-small", "1"]]


def test_an_interrupted_evaluation_goes_on_with_the_missing_student(
    cli: Cli, home: Path, recipe: Path, made: Path
) -> None:
    names = ("--student", "resnet-small", "--student", "convnet-small")
    common = ("evaluate", made, "--recipe", recipe, "--epochs", 1, *names)
    asked = list[int]()

    def stop_at_the_second(student: Any, *arguments: Any, **keys: Any) -> Any:
        asked.append(sum(parameter.numel() for parameter in student.parameters()))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return train_student(student, *arguments, **keys)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate_stage, "train_student", stop_at_the_second)
        assert cli(*common).code == 130
        assert set_folders(home) == []
        assert cli(*common).code == 0
    assert len(asked) == 3
    assert asked[0] != asked[1] == asked[2]  # the second architecture alone is trained again
    (folder,) = set_folders(home)
    assert RunFolder(folder).state() == "finished"


def test_a_set_that_a_live_process_works_on_is_waited_for(
    home: Path, recipe: Path, made: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    request = SetRequest(made, recipe=str(recipe))
    folder = evaluate_set(request, students=STUDENT, epochs=1).folder
    said = ""

    def has_said() -> bool:
        nonlocal said
        said += capfd.readouterr().err
        return f"waiting: the set {folder} is held by process" in said

    with ThreadPoolExecutor() as pool:
        with hold(RunFolder(folder).lease, what="the set"):
            waiting = pool.submit(evaluate_set, request, students=STUDENT, epochs=1)
            wait_until(has_said)
            assert not waiting.done()
        assert waiting.result(timeout=120).reused


def test_a_student_may_have_torchvisions_name(capfd: pytest.CaptureFixture[str]) -> None:
    ui.configure(verbose=False)
    names = [our_name(name) for name in ("resnet18", "resnet-18", "mobilenet_v2")]
    assert names == ["resnet-18", "resnet-18", "mobilenet-v2"]
    assert capfd.readouterr().err.splitlines() == [
        "--student resnet18: that is resnet-18 here",
        "--student mobilenet_v2: that is mobilenet-v2 here",
    ]


def test_seeds_recipes_and_images_make_folders_of_their_own(home: Path, recipe: Path, tree: Path) -> None:
    request = SetRequest(tree, recipe=str(recipe))
    requests = [request, replace(request, seed=1), replace(request, settings=("evaluate.lr=0.01",))]
    found = [evaluate_set(one, students=STUDENT, epochs=1) for one in (*requests, request)]
    assert [one.reused for one in found] == [False, False, False, True]
    (tree / "00000" / "class00000_id00000.jpg").write_bytes((tree / "00001" / "class00001_id00000.jpg").read_bytes())
    found.append(evaluate_set(request, students=STUDENT, epochs=1))
    assert len({one.folder for one in found}) == 4


def test_students_of_another_teacher_are_trained_anew(home: Path, recipe: Path, tree: Path, tmp_path: Path) -> None:
    request = SetRequest(tree, recipe=str(recipe))
    own = evaluate_set(request, students=STUDENT, epochs=1)
    run = open_set(request).run
    state = load_file(network_file(run, name_networks(run).teacher))
    found = []
    for rows in (1, 2):
        values = {key: value.roll(rows) for key, value in state.items()}
        torch.save(values, tmp_path / "teacher.pth")  # one path, with another content each time
        other = replace(request, teacher=str(tmp_path / "teacher.pth"))
        found.append(evaluate_set(other, students=STUDENT, epochs=1))
        assert evaluate_set(other, students=STUDENT, epochs=1).reused
    assert [one.reused for one in found] == [False, False]
    assert len({one.folder for one in (own, *found)}) == 3
    assert len({one.accuracy["students"]["convnet-small"]["last"][0] for one in (own, *found)}) > 1


def test_a_teacher_that_was_lost_comes_back_with_its_students(home: Path, recipe: Path, tree: Path) -> None:
    request = SetRequest(tree, recipe=str(recipe))
    before = evaluate_set(request, students=STUDENT, epochs=1)
    shutil.rmtree(home / "store" / "network")
    after = evaluate_set(request, students=STUDENT, epochs=1)
    assert (after.reused, after.folder, after.accuracy) == (True, before.folder, before.accuracy)


def test_the_independent_network_is_no_concern_of_students(home: Path, recipe: Path, tree: Path) -> None:
    request = SetRequest(tree, recipe=str(recipe))
    assert not evaluate_set(request, students=STUDENT, epochs=1).reused
    other = replace(request, settings=("squeeze.independent.epochs=7",))
    assert evaluate_set(other, students=STUDENT, epochs=1).reused
    assert evaluate_set(replace(other, seed=1), students=STUDENT, epochs=1).folder.is_dir()
    assert missing_networks(open_set(other).run) == ["independent"]


# Hard labels, which need more than pixels.


@pytest.fixture(scope="module")
def hard(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny recipe with the protocol of MTT and DM, and its learned learning rate."""
    raw = read_yaml(recipe)
    del raw["name"]
    keys = {"epochs": 1, "batch_size": 25, "lr": "learned", "lr_without": 0.02, "dsa": "none"}
    raw["evaluate"] = {"protocol": "hard-labels", "students": ["convnet-small"], **keys}
    path = tmp_path_factory.mktemp("hard") / "tiny.yaml"
    path.write_text(yaml.safe_dump(raw, sort_keys=False))
    return path


@pytest.fixture
def tensors(tmp_path: Path) -> Path:
    """MTT's two files: images as its loop has them, unbounded."""
    torch.save(2 * torch.randn(CLASSES, 3, 8, 8, generator=Generator().manual_seed(0)), tmp_path / "images_best.pt")
    torch.save(torch.arange(CLASSES), tmp_path / "labels_best.pt")
    return tmp_path / "images_best.pt"


def test_a_run_is_read_as_the_recipe_that_judges_it_says(finished_home: Path, baseline: Path) -> None:
    digests = {}
    for source in ("saved", "tensor"):
        opened = open_set(SetRequest(baseline, settings=(f"evaluate.source={source}",)))
        digests[source] = opened.condensed.digest
    assert digests["saved"] != digests["tensor"]
    assert open_set(SetRequest(baseline)).condensed.digest == digests["saved"]


def test_accuracies_of_validation_images_are_told_as_such(cli: Cli, home: Path, baseline: Path) -> None:
    held_out = ("--set", "dataset.validation=50", "--set", "evaluate.judge=validation")
    answer = cli("evaluate", baseline, *held_out)
    assert "tested on validation images, held out of the training set" in answer.out
    (folder,) = set_folders(home)
    assert read_json(folder / "metrics.json")["judged"] == "validation"


def test_students_learn_from_the_loops_own_tensors_in_the_protocols_space(
    cli: Cli, home: Path, hard: Path, tensors: Path
) -> None:
    answer = cli("evaluate", tensors, "--recipe", hard, "--normalised-by", f"{MEAN},{STD}")
    assert answer.code == 0
    assert "the set has no learned learning rate; evaluate.lr_without (0.02) is used" in answer.out
    assert "students learn from pixels" not in answer.out
    (folder,) = set_folders(home)
    assert folder.name.startswith("images_best-")
    opened = open_set(SetRequest(tensors, recipe=str(hard), normalised_by=f"{MEAN},{STD}"))
    assert torch.equal(loop_of(opened), torch.load(tensors))


@pytest.mark.parametrize("space", [("--space", "zca"), ("--normalised-by", "cifar-100")])
def test_students_learn_from_pixels_where_the_tensors_are_in_another_space(
    cli: Cli, home: Path, hard: Path, tensors: Path, space: tuple[str, str]
) -> None:
    answer = cli("evaluate", tensors, "--recipe", hard, *space)
    assert answer.code == 0
    assert "students learn from pixels, clipped to [0, 1]" in answer.out
    option = {"space" if space[0] == "--space" else "normalised_by": space[1]}
    _, images, _ = fit_protocol(open_set(SetRequest(tensors, recipe=str(hard), **option)))  # type: ignore[arg-type]
    assert images.read_loop() is None


def test_a_run_brings_its_loop_tensors_and_its_learned_learning_rate(
    cli: Cli, finished_home: Path, own_run: Path, hard: Path
) -> None:
    evaluate = {**read_yaml(hard)["evaluate"], "source": "tensor"}
    recipe = read_yaml(own_run / "recipe.yaml") | {"evaluate": evaluate, "sources": {}}
    (own_run / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    kept = load_file(own_run / "images.safetensors")
    loop = 2 * torch.randn(kept["images"].shape, generator=Generator().manual_seed(0))
    (own_run / "images.safetensors").unlink()
    save_file({**kept, "loop": loop}, own_run / "images.safetensors")
    found = []
    for rate in (0.03, 0.3):
        (own_run / "extras.json").write_text(f'{{"learned_lr": {rate}}}')
        answer = cli("evaluate", own_run)
        assert answer.code == 0, answer.err
        assert "learned" not in answer.out
        opened = open_set(SetRequest(own_run))
        assert torch.equal(loop_of(opened), loop)
        _, images, _ = fit_protocol(opened)
        assert images.extras == {"learned_lr": rate}
        found.append(images.source.digest)
    assert len(set_folders(finished_home)) == 2
    assert found[0] != found[1]


def loop_of(opened: OpenedSet) -> Tensor:
    """Return the tensors from which students of the set learn."""
    _, images, _ = fit_protocol(opened)
    loop = images.read_loop()
    assert loop is not None
    return loop
