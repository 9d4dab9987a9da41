"""What a late stage would refuse is refused before anything is trained, by every command that makes runs."""

from pathlib import Path

import pytest
from support.cli import Cli

from dire_plug.errors import DirePlugError
from dire_plug.pipeline import Request, plan_run
from dire_plug.pipeline.request import batch_sizes, check_batches, check_counts, with_data, with_stand_in

SHORT = (
    *("--set", "squeeze.teacher.epochs=1", "--set", "squeeze.independent.epochs=1"),
    *("--set", "recover.flags.iteration=1", "--set", "evaluate.epochs=1"),
)
NOWHERE = "squeeze.independent.checkpoint=/nowhere/weights.pt"
PUBLISHED = ("squeeze.independent.architecture=resnet-18", "squeeze.independent.checkpoint=torchvision:IMAGENET1K_V1")


def trained(home: Path) -> list[Path]:
    """Return the networks that are in the store."""
    return list(home.glob("store/network/*/network.json"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (("run", "sre2l", "--set", NOWHERE), "/nowhere/weights.pt is not a file"),
        (
            ("run", "sre2l", "--set", PUBLISHED[0], "--set", PUBLISHED[1]),
            "IMAGENET1K_V1 has 1000 outputs and the imagenet stem, the network here 10 and the imagenet stem",
        ),
        (
            ("run", "sre2l", "--set", "squeeze.labeller={architecture: resnet-99, epochs: 1}"),
            "architecture: 'resnet-99' is unknown",
        ),
        (
            ("run", "sre2l", "--dire", "--set", "real.per_class=5000"),
            "real.per_class: class '8' of digits has 138 real",
        ),
        (
            ("compare", "sre2l", "--arms", "baseline,dire", "--set", "real.per_class=5000"),
            "real.per_class: class '8' of digits has 138 real",
        ),
        (
            ("compare", "sre2l", "--set", "arms.dire.overrides.term.network=frozen:vgg-16"),
            "vgg-16 needs images of 32 pixels",
        ),
        (
            ("run", "sre2l", "--executor", "local", "--jobs", "1", "--set", "measure.nearest_k=1000"),
            "measure.nearest_k: 1000 neighbours take 1001 images",
        ),
        (
            ("compare-methods", "sre2l", "--subsets", "rded", "--set", "rded.factor=4"),
            "10 images per class of 4×4 patches need 160",
        ),
        (
            ("run", "sre2l", "--set", "evaluate.students=[resnet-18]", "--set", "evaluate.batch_size=33"),
            "evaluate.batch_size: of 100 images in batches of 33 one is left by itself, and resnet-18 can't be trained",
        ),
        (
            (
                "run",
                "sre2l",
                "--set",
                "squeeze.teacher.architecture=resnet-18",
                "--set",
                "squeeze.teacher.batch_size=1",
            ),
            "squeeze.teacher.batch_size: of 1,437 images in batches of 1 one is left by itself, and resnet-18",
        ),
    ],
)
def test_nothing_is_trained_for_a_run_that_cannot_end(
    cli: Cli, bare_home: Path, line: tuple[str, ...], message: str
) -> None:
    answer = cli(*line, *SHORT, "--device", "cpu")
    assert answer.code == 2
    assert message in " ".join(answer.err.split())
    assert trained(bare_home) == []


def test_a_network_that_takes_one_image_may_get_it() -> None:
    # its last map has more than one pixel
    line = ("evaluate.students=[resnet-small-grey]", "evaluate.batch_size=33", "dataset.size=32")
    run = with_stand_in(plan_run(Request("sre2l", settings=line, arm="random")))

    check_batches(run)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((100, 25), {25}),
        ((100, 33), {33, 1}),
        ((10, 64), {10}),
        ((1000, 1024, 2), {512, 488}),
        ((1025, 512, 2), {256, 1}),
        ((6, 4, 4), {1}),
        ((9, 5, 2), {3, 2, 1}),
    ],
)
def test_the_images_that_pass_at_once_are_counted(given: tuple[int, ...], expected: set[int]) -> None:
    assert batch_sizes(*given) == expected


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("dm", ("evaluate.lr=learned",), "evaluate.lr: DM learns no learning rate; set it to a number"),
        (
            "mtt",
            ("recover.flags.dsa_strategy=colr_crop",),
            "no operation of DSA is named 'colr' (did you mean 'color'?)",
        ),
        (
            "dm",
            ("recover.flags.dsa_strategy=colr_crop",),
            "no operation of DSA is named 'colr' (did you mean 'color'?)",
        ),
        (
            "mtt",
            ("recover.flags.model=ConvNetW64", "recover.embedder.network=expert"),
            "recover.embedder.network: experts of ConvNetW64 can't embed",
        ),
        ("cv-dd", ("evaluate.protocol=cv-dd", "evaluate.votes=[1, 2]"), "evaluate.votes: 2 votes, but "),
        (
            "infer",
            ("squeeze.others.labeller={architecture: resnet-18, epochs: 1}",),
            "squeeze.others: 'labeller' is another network's name; choose another",
        ),
    ],
)
def test_settings_that_a_stage_would_refuse_are_refused_when_planning(
    method: str, settings: tuple[str, ...], message: str
) -> None:
    with pytest.raises(DirePlugError) as refused:
        plan_run(Request(method, settings=settings), dry=True)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("method", "more", "message"),
    [
        ("delt", {"ipc": 150}, "prepare: digits: class"),
        (
            "edc",
            {"settings": ("prepare.statistics.images=5",)},
            "prepare.statistics.images: 5 images hold none of some",
        ),
    ],
)
def test_too_few_images_for_a_preparation_are_refused_first(method: str, more: dict[str, object], message: str) -> None:

    run = with_data(plan_run(Request(method, device="cpu", **more), dry=True))  # type: ignore[arg-type]
    with pytest.raises(DirePlugError, match=message):
        check_counts(run)
