"""The pretended GPU itself: what it refuses, and what it counts."""

import pytest
import torch
from support.pretended_gpu import DEVICE, DeviceMismatchError, back, counted, device_present, put


def test_two_devices_in_one_operation_are_refused() -> None:
    with device_present(), pytest.raises(DeviceMismatchError, match="of the host beside"):
        put(torch.ones(2)) + torch.ones(2)


def test_a_cpu_generator_for_numbers_on_the_device_is_refused() -> None:
    with device_present(), pytest.raises(DeviceMismatchError, match="CPU generator"):
        torch.rand(2, device=DEVICE, generator=torch.Generator())


def test_launches_are_counted_and_views_are_none() -> None:
    with device_present(), counted() as counts:
        (put(torch.ones(2, 3)).t() * 2).sum()
    assert dict(counts.launches) == {"mul": 1, "sum": 1}
    assert not counts.waits


def test_what_the_host_waits_for_is_counted() -> None:
    with device_present():
        values = put(torch.ones(3))
        with counted() as counts:
            values[values > 0]
            float(values.sum())
            values.cpu()
            torch.tensor([1.0, 2.0], device=DEVICE)
    assert [kind for kind, _ in counts.waits] == [
        "index by a mask (nonzero)",
        "_local_scalar_dense",
        "copy to the host",
        "copy to the device",
    ]


def test_values_and_gradients_are_those_of_the_cpu() -> None:
    host = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    host.square().sum().backward()  # type: ignore[no-untyped-call]
    with device_present():
        device = put(host).requires_grad_()
        device.square().sum().backward()  # type: ignore[no-untyped-call]
        assert device.grad is not None
        assert host.grad is not None
        assert torch.equal(back(device.grad), host.grad)


def test_a_module_moves_to_the_device() -> None:
    with device_present():
        layer = torch.nn.Linear(3, 2).to(DEVICE)
        assert layer(put(torch.ones(1, 3))).device == torch.device(DEVICE)
