"""SRe2L's adapter: plans, flags, the command line of its scripts, and its hooks."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from dire_plug.api.plans import ChunkedPlan, build_plan
from dire_plug.errors import DirePlugError
from dire_plug.methods.sre2l import SRe2L
from dire_plug.native.sre2l import read_settings
from dire_plug.recipe.model import RecoverSection, RegroupSection
from dire_plug.types import LoopInputs, Slot, StartImages, Synthesis


@dataclass
class StubSynthesis:
    """The part of a synthesis that the adapter's hooks read."""

    plan: ChunkedPlan
    start_images: StartImages = field(default_factory=lambda: StartImages("noise"))
    classes: int = 4
    ipc: int = 6
    seed: int = 0


def stub(**values: Any) -> Synthesis:
    return cast(Synthesis, StubSynthesis(**values))


def recover(script: str = "cifar", *, per_class: int | None = None, **flags: Any) -> RecoverSection:
    named = {name.replace("_", "-"): value for name, value in flags.items()}
    if per_class is None:
        return RecoverSection(script=script, flags=named)
    return RecoverSection(script=script, flags=named, plan=RegroupSection(per_class=per_class))


KEPT = build_plan(classes=4, ipc=6, slots_per_pass=1)
GROUPED = build_plan(classes=4, ipc=6, slots_per_pass=2, per_class=3)


def test_a_kept_plan_has_upstreams_own_batches() -> None:
    plan = SRe2L().plan(recover("tiny", batch_size=150), classes=200, ipc=2)
    assert plan.chunks == ((0, 150), (150, 200))
    assert plan.passes == 2


def test_the_authors_release_is_two_batches_of_five_hundred_images() -> None:
    plan = SRe2L().plan(recover(per_class=10, batch_size=50), classes=100, ipc=50)
    assert (plan.passes, plan.slots_per_pass, len(plan.slot(Slot(4, 1)).labels)) == (5, 2, 500)


def test_a_dataset_with_fewer_classes_is_spread_over_upstreams_batches() -> None:
    plan = SRe2L().plan(recover(batch_size=50), classes=10, ipc=1)
    assert plan.chunks == ((0, 5), (5, 10))


def test_more_batches_than_classes_are_refused() -> None:
    with pytest.raises(DirePlugError, match="20 batches a pass for 10 classes"):
        SRe2L().plan(recover(batch_size=5), classes=10, ipc=1)


def test_a_batch_that_the_imagenet_script_cannot_reshape_is_refused() -> None:
    with pytest.raises(DirePlugError, match="reshapes its images by --batch-size 1000"):
        SRe2L().plan(recover("imagenet", batch_size=1000), classes=10, ipc=1)


def test_labels_that_equal_upstreams_are_left_alone() -> None:
    assert SRe2L().plan_labels(stub(plan=KEPT), Slot(3, 0), torch.arange(4)) is None


def test_grouped_labels_replace_upstreams_with_its_dtype() -> None:
    answer = SRe2L().plan_labels(stub(plan=GROUPED), Slot(0, 1), torch.arange(2, 4))
    assert answer is not None
    assert answer.tolist() == [2, 2, 2, 3, 3, 3]
    assert answer.dtype == torch.int64


def test_the_image_index_is_the_plans() -> None:
    numbers = [SRe2L().image_index(stub(plan=GROUPED), Slot(1, 0), position) for position in range(6)]
    assert numbers == [3, 4, 5, 3, 4, 5]


def test_upstreams_own_noise_is_left_alone() -> None:
    images = torch.zeros(4, 3, 8, 8)
    for shape in (None, (3, 8, 8)):
        synthesis = stub(plan=KEPT, start_images=StartImages("noise", shape))
        assert SRe2L().initial_images(synthesis, Slot(0, 0), images, torch.arange(4)) is None


def test_noise_of_another_size_is_the_same_image_in_every_plan() -> None:
    adapter, start, images = SRe2L(), StartImages("noise", (3, 4, 4)), torch.zeros(1, 3, 8, 8)
    grouped = adapter.initial_images(stub(plan=GROUPED, start_images=start), Slot(1, 1), images, torch.tensor(0))
    kept = adapter.initial_images(stub(plan=KEPT, start_images=start), Slot(5, 0), images, torch.tensor(0))
    assert grouped is not None
    assert kept is not None
    assert torch.equal(grouped[5], kept[3])  # class 3, image 5
    assert not torch.equal(grouped[4], kept[3])


def test_noise_is_the_same_at_every_ipc() -> None:
    adapter, start, images = SRe2L(), StartImages("noise", (3, 4, 4)), torch.zeros(1, 3, 8, 8)
    more = replace(GROUPED, ipc=GROUPED.ipc + 5)
    few = adapter.initial_images(stub(plan=GROUPED, start_images=start), Slot(0, 1), images, torch.tensor(0))
    many = adapter.initial_images(stub(plan=more, start_images=start), Slot(0, 1), images, torch.tensor(0))
    assert few is not None
    assert many is not None
    assert torch.equal(few, many)


def test_noise_depends_on_the_seed_and_on_nothing_drawn_before() -> None:
    adapter, start, images = SRe2L(), StartImages("noise", (3, 4, 4)), torch.zeros(4, 3, 8, 8)

    def draw(seed: int) -> torch.Tensor:
        synthesis = stub(plan=KEPT, start_images=start, seed=seed)
        answer = adapter.initial_images(synthesis, Slot(0, 0), images, torch.arange(4))
        assert answer is not None
        return answer

    first = draw(0)
    torch.randn(3)
    assert not torch.equal(draw(1), first)
    assert torch.equal(draw(0), first)


def test_drawing_noise_leaves_upstreams_random_stream_alone() -> None:
    synthesis = stub(plan=KEPT, start_images=StartImages("noise", (3, 4, 4)), seed=7)
    before = torch.get_rng_state()
    SRe2L().initial_images(synthesis, Slot(0, 0), torch.zeros(4, 3, 8, 8), torch.arange(4))
    assert torch.equal(torch.get_rng_state(), before)


def test_real_start_images_are_gathered_by_class_and_image() -> None:
    pixels = torch.arange(24, dtype=torch.uint8).reshape(4, 6, 1, 1, 1).expand(4, 6, 3, 2, 2)
    start = StartImages("real", (3, 2, 2), pixels, mean=(0.0, 0.0, 0.0), std=(1 / 255, 1.0, 1.0))
    synthesis = stub(plan=GROUPED, start_images=start)
    answer = SRe2L().initial_images(synthesis, Slot(1, 1), torch.zeros(2, 3, 8, 8), torch.arange(2))
    assert answer is not None
    assert answer.dtype == torch.float32
    torch.testing.assert_close(answer[:, 0, 0, 0], torch.tensor([15.0, 16.0, 17.0, 21.0, 22.0, 23.0]))


def test_a_real_start_without_images_is_an_error() -> None:
    synthesis = stub(plan=KEPT, start_images=StartImages("real"))
    with pytest.raises(DirePlugError, match="no images to start from"):
        SRe2L().initial_images(synthesis, Slot(0, 0), torch.zeros(4, 3, 8, 8), torch.arange(4))


def inputs_of(section: RecoverSection, *, architecture: str = "resnet-18") -> LoopInputs:
    """Return what the adapter knows of a run with this section."""
    squeeze = SimpleNamespace(teacher=SimpleNamespace(architecture=architecture))
    recipe = SimpleNamespace(recover=section, squeeze=squeeze)
    return LoopInputs(recipe, classes=4, size=8, seed=0, folder=Path("/run/inputs"), images=Path("/run/images"))


def options(arguments: tuple[str, ...]) -> dict[str, str]:
    """Read a command line of `--flag value` pairs and bare flags."""
    pairs = zip(arguments, [*arguments[1:], "--"], strict=True)
    return {flag: "" if value.startswith("--") else value for flag, value in pairs if flag.startswith("--")}


def test_the_command_line_has_every_flag_in_upstreams_spelling() -> None:
    call = SRe2L().invocation(inputs_of(recover(lr=0.25, r_bn=0.01)))
    assert options(call.arguments) == {
        "--batch-size": "100",
        "--iteration": "1000",
        "--lr": "0.25",
        "--jitter": "4",
        "--r-bn": "0.01",
        "--first-bn-multiplier": "10.0",
        "--syn-data-path": "/run",
        "--exp-name": "images",
        "--store-best-images": "",
        "--arch-path": "/run/inputs/teacher.pt",
    }
    assert set(call.shims) == {"device", "torch_load", "network"}


def test_the_tiny_script_stores_its_last_images() -> None:
    call = SRe2L().invocation(inputs_of(recover("tiny")))
    assert "--store-last-images" in call.arguments
    assert "--store-best-images" not in call.arguments


def test_the_imagenet_script_gets_its_teacher_by_a_shim() -> None:
    call = SRe2L().invocation(inputs_of(recover("imagenet")))
    assert "--arch-path" not in call.arguments
    assert call.shims["hub_weights"] == {"teacher": "/run/inputs/teacher.pt", "untrained": True}
    assert {"--tv-l2", "--l2-scale"} <= set(call.arguments)


def test_another_architecture_is_put_in_by_a_shim() -> None:
    call = SRe2L().invocation(inputs_of(recover(), architecture="resnet-small"))
    assert call.shims["get_model"] == {"replace": "resnet18", "architecture": "resnet-small"}


def test_one_pass_is_one_image_id() -> None:
    assert SRe2L().pass_arguments(3, "cifar") == ("--ipc-start", "3", "--ipc-end", "4")


def test_images_lie_where_the_scripts_save_them() -> None:
    assert SRe2L().image_path(7, 42) == "new007/class007_id042.jpg"


def test_only_the_cifar_script_has_a_native_loop() -> None:
    assert [name for name in SRe2L.scripts if SRe2L().has_native(name)] == ["cifar"]


def test_the_number_of_steps_of_a_slot_is_upstreams_iteration() -> None:
    assert SRe2L().steps(recover(iteration=7)) == 7


def test_the_native_loop_gets_the_flags_and_what_the_script_hard_codes() -> None:
    flags = SRe2L().flags_model("cifar")(lr=0.3, iteration=7).model_dump(by_alias=True)
    settings = read_settings(SRe2L.scripts["cifar"], flags)
    assert (settings.lr, settings.r_bn, settings.iteration, settings.jitter) == (0.3, 0.05, 7, 4)
    assert (settings.classes, settings.size) == (100, 32)
