"""The diversity metrics on the pretended GPU: values as on the CPU, and a ledger of what the host waits for."""

from collections.abc import Callable

import pytest
import torch
from support.pretended_gpu import back, counted, device_present, put
from torch import Tensor

from dire_plug import metrics
from dire_plug.data import subsets
from dire_plug.stages.embed import choose_centres

Sets = tuple[Tensor, Tensor, Tensor, Tensor]
Values = tuple[Tensor, ...]
Metric = Callable[[Tensor, Tensor, Tensor, Tensor], Values]


def sets(classes: int) -> Sets:
    """Return real rows, their labels, synthetic rows and theirs; classes differ in their rows.

    They are 600 and 120 or a few more, and of many classes at least 5 and 1 of each.
    """
    each, ipc = max(5, 600 // classes), max(1, 120 // classes)
    generator = torch.Generator().manual_seed(3)
    real = torch.arange(classes).repeat_interleave(each + torch.arange(classes) % 3)
    made = torch.arange(classes).repeat_interleave(ipc + torch.arange(classes) % 2)
    rows = [torch.randn(len(labels), 16, generator=generator).abs() for labels in (real, made)]
    return rows[0], real, rows[1], made


def values_of(found: object) -> Values:
    return tuple(torch.tensor(float("nan") if one is None else float(one)) for one in vars(found).values())


def diversity(real: Tensor, labels: Tensor, made: Tensor, made_labels: Tensor) -> Values:
    near = metrics.Neighbourhoods.of(real, labels, nearest_k=3)
    return values_of(metrics.diversity(near, made, made_labels))


def real_reference(real: Tensor, labels: Tensor, made: Tensor, made_labels: Tensor) -> Values:
    near = metrics.Neighbourhoods.of(real, labels, nearest_k=3)
    return values_of(
        metrics.real_reference(near, made, made_labels, ipc=90 // len(near.classes.labels), draws=2, seed=1)
    )


METRICS: dict[str, Metric] = {
    "nearest_radii": lambda r, rl, s, sl: (metrics.nearest_radii(r),),
    "class_radii": lambda r, rl, s, sl: (metrics.class_radii(r, rl),),
    "per_class_coverage": lambda r, rl, s, sl: (torch.tensor(metrics.per_class_coverage(r, rl, s, sl)),),
    "prdc": lambda r, rl, s, sl: values_of(metrics.prdc_metrics(r, s)),
    "vendi": lambda r, rl, s, sl: (torch.tensor(metrics.vendi(s)),),
    "class_vendi": lambda r, rl, s, sl: (torch.tensor(metrics.mean_class_vendi(s, sl)),),
    "similarity": lambda r, rl, s, sl: (metrics.intra_class_similarity(s, sl),),
    "diversity": diversity,
    "real_reference": real_reference,
    "herding": lambda r, rl, s, sl: (subsets.choose_by_herding(r[:20], 5),),
    "k_center": lambda r, rl, s, sl: (subsets.choose_by_k_center(r[:20], 5),),
    "k_means": lambda r, rl, s, sl: (subsets.choose_by_k_means(r[:20], 5, seed=1),),
}
WAITS = {
    "nearest_radii": 3,
    "class_radii": 3,
    "per_class_coverage": 6,
    "prdc": 11,
    "vendi": 3,
    "class_vendi": 3,
    "similarity": 1,
    "diversity": 13,
    "real_reference": 27,
}
"""How often the host waits in one call, with the labels on the host."""


def call(name: str, given: Sets, *, labels_too: bool = False) -> tuple[Values, int]:
    """Return a metric's values and how often the host waited; `diversity` is counted without its radii."""
    with device_present():
        real, labels, made, made_labels = given
        real, made = put(real), put(made)
        if labels_too:
            labels, made_labels = put(labels), put(made_labels)
        if name in ("diversity", "real_reference"):
            near = metrics.Neighbourhoods.of(real, labels, nearest_k=3)
            with counted() as counts:
                if name == "diversity":
                    values = values_of(metrics.diversity(near, made, made_labels))
                else:
                    values = values_of(
                        metrics.real_reference(
                            near, made, made_labels, ipc=90 // len(near.classes.labels), draws=2, seed=1
                        )
                    )
        else:
            with counted() as counts:
                values = METRICS[name](real, labels, made, made_labels)
        return tuple(back(one) for one in values), counts.waits.total()


@pytest.mark.parametrize("name", METRICS)
def test_values_are_those_of_the_cpu_for(name: str) -> None:
    given = sets(10)
    expected = METRICS[name](*given)
    for labels_too in (False, True):
        found, _ = call(name, given, labels_too=labels_too)
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-12, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", WAITS)
def test_the_host_waits_as_often_as_the_ledger_says_for(name: str) -> None:
    assert call(name, sets(10))[1] == WAITS[name]


@pytest.mark.parametrize("name", WAITS)
def test_waits_do_not_grow_with_the_number_of_classes_in(name: str) -> None:
    assert call(name, sets(3))[1] == call(name, sets(30))[1]


def test_a_thousand_classes_are_measured_with_the_waits_of_ten() -> None:
    # one more: with so many rows some distances are too close for float32, and are looked at again
    assert call("diversity", sets(1000))[1] <= WAITS["diversity"] + 1


def test_a_coreset_of_rows_on_the_host_is_not_seen_by_the_device() -> None:
    real, labels, _, _ = sets(3)
    with device_present(), counted() as counts:
        choose_centres(real, labels, 4)
    assert not counts.launches
