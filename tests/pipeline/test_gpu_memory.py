"""GPUs that are too small are refused before anything is trained, with the numbers; the GPU itself is a number here."""

from typing import Any

import pytest
import torch

from dire_plug.errors import DirePlugError
from dire_plug.pipeline import Request, Run, plan_run
from dire_plug.pipeline.gpu_memory import FORCE, check_gpu_memory, count_synthesis, gpu_memory
from dire_plug.pipeline.network_costs import count_pass, count_unrolled
from dire_plug.pipeline.request import with_stand_in
from dire_plug.pipeline.run import name_artefacts

GB = 10**9


def planned(method: str, recipe: str, arm: str = "baseline", **more: Any) -> Run:
    return with_stand_in(plan_run(Request(method, recipe=recipe, arm=arm, **more), dry=True))


def check(run: Run, total: int | None) -> None:
    check_gpu_memory(run, list(name_artefacts(run)["images"].inputs.values()), total=total)


@pytest.fixture(autouse=True)
def _home(bare_home: object) -> None:
    """A store without any entry."""


def test_mtt_needs_the_graph_of_all_its_steps() -> None:
    step = count_unrolled(architecture="convnet-3", outputs=100, stem="small", size=32)
    ten, fifty = (count_synthesis(planned("mtt", "cifar-100", ipc=ipc)) for ipc in (10, 50))
    assert ten["the graph of 20 training steps of 1000 images in convnet-3"] == 20 * (1000 * step.kept + step.fixed)
    # batch_syn 125, although there are 5000 images
    assert fifty["the graph of 80 training steps of 125 images in convnet-3"] == 80 * (125 * step.kept + step.fixed)
    assert 59 * GB < sum(ten.values()) < 60 * GB
    assert 30 * GB < sum(fifty.values()) < 31 * GB


def test_several_gpus_divide_the_graph_of_a_step() -> None:
    run = planned("mtt", "cifar-100", ipc=10)
    one, four = (sum(count_synthesis(run, gpus=gpus).values()) for gpus in (1, 4))
    assert one / 4 < four < one / 3.9


def test_the_largest_of_the_networks_that_take_turns_counts() -> None:
    found = count_synthesis(planned("infer", "imagenet-1k", ipc=10))
    largest = count_pass(architecture="efficientnet-b0", outputs=1000, stem="imagenet", size=224, inverted=True)
    assert found["1000 images in efficientnet-b0"] == 1000 * largest.kept
    assert 116 * GB < sum(found.values()) < 118 * GB


def test_all_networks_that_make_a_step_together_hold_a_graph() -> None:
    found = count_synthesis(planned("cv-dd", "imagenet-1k", ipc=10))
    largest = [
        count_pass(architecture=name, outputs=1000, stem="imagenet", size=224, inverted=True)
        for name in ("densenet-121", "resnet-50")
    ]
    assert found["100 images in densenet-121 and resnet-50"] == 100 * sum(one.kept for one in largest)


def test_a_script_under_autocast_keeps_half_of_its_activations_bytes() -> None:
    run = planned("fadrm", "imagenet-1k", ipc=10)
    found, batch = count_synthesis(run), run.recipe.recover.flags["batch-size"]
    largest = count_pass(architecture="densenet-121", outputs=1000, stem="imagenet", size=224, inverted=True)
    assert found[f"{batch} images in densenet-121"] == batch * (largest.kept // 2)
    assert found["images"] == 3 * batch * 3 * 224**2 * 4


def test_fast_in_bfloat16_keeps_half_of_the_activations_bytes() -> None:
    plain = count_synthesis(planned("sre2l", "imagenet-1k", ipc=10))
    fast = planned("sre2l", "imagenet-1k", ipc=10, accelerate="fast", able=("bf16",))
    (key,) = [one for one in plain if "resnet-18" in one]
    assert count_synthesis(fast) == {**plain, key: plain[key] // 2}


def test_a_term_needs_its_networks_and_the_real_embeddings() -> None:
    plain, dire = (count_synthesis(planned("mtt", "cifar-100", arm, ipc=10)) for arm in ("baseline", "dire"))
    assert dire.keys() - plain.keys() == {"100 images in the term's convnet-3", "real embeddings"}
    assert dire["real embeddings"] == 50_000 * 128 * 4**2 * 4


def test_too_small_a_gpu_is_refused_with_the_numbers_and_the_ways_out() -> None:
    with pytest.raises(DirePlugError) as error:
        check(planned("mtt", "cifar-100", ipc=10), 24 * GB)
    told = str(error.value)
    assert told.startswith(
        "mtt cifar-100, baseline, IPC 10: a step of the synthesis needs at least 59.2 GB of GPU memory ("
    )
    assert "59.2 GB for the graph of 20 training steps of 1000 images in convnet-3" in told
    assert "the GPU has 24.0 GB" in told
    assert "give the script several: --executor local --gpus-per-job 3" in told
    assert f"{FORCE}=1" in told


def test_a_script_that_uses_one_gpu_is_not_offered_several() -> None:
    with pytest.raises(DirePlugError) as error:
        check(planned("infer", "imagenet-1k", ipc=10, gpus=4), 80 * GB)
    assert "1000 images in efficientnet-b0" in str(error.value)
    assert "--gpus-per-job" not in str(error.value)


def test_only_a_script_that_spreads_its_steps_sees_several() -> None:
    assert planned("mtt", "cifar-100", gpus=4).gpus == 4
    assert planned("dm", "cifar-100", gpus=4).gpus == 1


def test_large_enough_and_no_gpu_at_all_pass() -> None:
    check(planned("mtt", "cifar-100", ipc=10), 80 * GB)
    check(planned("mtt", "cifar-100", ipc=10, gpus=3), 24 * GB)
    check(planned("mtt", "cifar-100", ipc=10), None)
    assert gpu_memory(torch.device("cpu")) is None


def test_the_variable_starts_a_synthesis_whatever_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    run = planned("mtt", "cifar-100", ipc=10)
    monkeypatch.setenv(FORCE, "0")
    with pytest.raises(DirePlugError):
        check(run, GB)
    monkeypatch.setenv(FORCE, "1")
    check(run, GB)


def test_a_run_of_real_images_has_no_synthesis_that_could_be_too_large() -> None:
    check_gpu_memory(planned("infer", "imagenet-1k", "random", ipc=10), [], total=GB)
