"""Counts of networks: operations by hand, and bytes as torch keeps them of real images on the CPU."""

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from torch.profiler import ProfilerActivity, profile

from dire_plug.models import build
from dire_plug.native.sre2l import StatisticsLoss
from dire_plug.pipeline.network_costs import count_pass, count_unrolled

NARROW = "convnet-3-w32"


def test_operations_of_a_forward_pass_by_hand() -> None:
    found = count_pass(architecture=NARROW, outputs=10, stem="small", size=32)
    # three 3×3 convolutions, each followed by a pooling that halves the map, then the flattened 4×4 map's head
    macs = 9 * 32 * (3 * 32**2 + 32 * 16**2 + 32 * 8**2) + 32 * 4**2 * 10
    assert found.forward == 2 * macs
    # two more products of the same size in training, and one where the weights are frozen
    assert found.both == 3 * found.forward
    assert count_pass(architecture=NARROW, outputs=10, stem="small", size=32, inverted=True).both == 2 * found.forward
    assert found.width == 32 * 4**2


def kept_by_a_batch(model: nn.Module, images: Tensor) -> int:
    held = []

    def keep(tensor: Tensor) -> Tensor:
        held.append(tensor)
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        model(images.requires_grad_())
    return sum({one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in held}.values())


def test_bytes_kept_are_those_that_autograd_keeps_of_a_further_real_image() -> None:
    found = count_pass(architecture="resnet-small", outputs=10, stem="small", size=8)
    model = build("resnet-small", outputs=10).train()
    seven, six = (kept_by_a_batch(model, torch.rand(count, 3, 8, 8)) for count in (7, 6))
    assert found.kept == seven - six
    assert found.weights == sum(parameter.nbytes for parameter in model.parameters())


def test_an_inverted_network_keeps_what_its_statistics_need() -> None:
    found = count_pass(architecture="resnet-small", outputs=10, stem="small", size=8, inverted=True)
    model = build("resnet-small", outputs=10).eval().requires_grad_(False)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            StatisticsLoss(layer)
    seven, six = (kept_by_a_batch(model, torch.rand(count, 3, 8, 8)) for count in (7, 6))
    assert found.kept == seven - six
    assert found.kept > count_pass(architecture="resnet-small", outputs=10, stem="small", size=8).kept


def train_unrolled(images: int, steps: int) -> list[Tensor]:
    """Return the parameters after each step of training, with the graph of all of them."""
    model = build(NARROW, outputs=10, size=32)
    own = dict(model.named_parameters())
    batch, labels = torch.rand(images, 3, 32, 32, requires_grad=True), torch.arange(images)
    rate = torch.tensor(0.01, requires_grad=True)
    flat = [torch.cat([one.detach().flatten() for one in own.values()]).requires_grad_()]
    for _ in range(steps):
        parts = torch.split(flat[-1], [one.numel() for one in own.values()])
        given = {name: part.view(one.shape) for (name, one), part in zip(own.items(), parts, strict=True)}
        loss = cross_entropy(functional_call(model, given, (batch[torch.randperm(images)],)), labels)
        (gradient,) = torch.autograd.grad(loss, flat[-1], create_graph=True)
        flat.append(flat[-1] - rate * gradient)
    return flat


def test_an_unrolled_graph_takes_the_bytes_that_the_allocator_gave() -> None:
    found = count_unrolled(architecture=NARROW, outputs=10, stem="small", size=32)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        kept = train_unrolled(3, 4)
    # allocated and not freed while the graph lives: the graph, the images, the first parameters
    held = sum(event.self_cpu_memory_usage for event in profiled.key_averages())
    assert len(kept) == 5
    counted = 4 * (3 * found.kept + found.fixed)
    assert counted <= held <= 1.05 * counted


def test_an_unrolled_step_costs_three_passes_and_their_backward_passes() -> None:
    step = count_unrolled(architecture=NARROW, outputs=10, stem="small", size=32)
    forward = count_pass(architecture=NARROW, outputs=10, stem="small", size=32).forward
    assert 7 * forward < step.operations <= 9 * forward
