"""What every regularizer must do: a new one is tested by being installed, with each choice that its settings have."""

import inspect
import math
from collections.abc import Iterator
from typing import Any, Literal, cast, get_args, get_origin

import pytest
import torch
from pydantic import ValidationError
from support.paths import ROOT
from support.reference_loss import draw, real_of
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dire_plug.errors import DirePlugError
from dire_plug.plugins import build_manager, known, load, settings_model
from dire_plug.types import Batch, RealEmbeddings, Slot, Synthesis

REGULARIZERS = list(known("regularizers"))
PROBE = "verify-probe"
"""No regularizer: the test term of `verify`, which looks at the place of each row, and prepares real rows anew."""
LABELS = torch.tensor([3, 0, 3, 0, 3, 1])
REAL = real_of({0: 5, 1: 4, 2: 2, 3: 7}, 4)
aten = torch.ops.aten
WAITS = {aten._local_scalar_dense, aten.equal, aten.is_nonzero, aten.nonzero, aten.masked_select, aten._unique2}
"""Operations after which the host knows a value: on a GPU each waits for all that was asked of it before."""


def choices(name: str) -> Iterator[dict[str, Any]]:
    """Yield the defaults, and changes of one setting that go with them: each other literal, another number."""
    model = load("regularizers", name).settings_model
    yield {}
    for key, field in model.model_fields.items():
        values = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
        values = (2.0,) if field.annotation is float else values
        for value in values:
            try:
                model(**{key: value})
            except ValidationError:
                continue
            if value != field.default:
                yield {key: value}


CHOICES = [(name, settings) for name in REGULARIZERS for settings in choices(name)]
TERMS = [(name, settings) for name, settings in CHOICES if name != PROBE]

PAIRED = [(name, settings) for name, settings in TERMS if name == "dire" and settings.get("variant") != "paper"]
"""The release leaves out the pair of the i-th synthetic and the i-th real row of a class."""


def label(value: object) -> str:
    return (
        (" ".join(f"{key}={one}" for key, one in value.items()) or "defaults")
        if isinstance(value, dict)
        else str(value)
    )


every_regularizer = pytest.mark.parametrize("name", REGULARIZERS)
every_choice = pytest.mark.parametrize(("name", "settings"), CHOICES, ids=label)
every_term = pytest.mark.parametrize(("name", "settings"), TERMS, ids=label)


class Fake:
    """A synthesis that holds real embeddings."""

    bank, nonnegative, steps = False, False, 100

    def __init__(self, real: RealEmbeddings) -> None:
        self._real = real

    def real(self, teacher: str) -> RealEmbeddings:
        return self._real

    def record(self, name: str, value: Tensor | float, *, component: bool = False) -> None:
        pass


class Waits(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes each operation that would wait for a GPU."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        chosen = args[1] if function.overloadpacket is aten.index else ()
        masked = any(index is not None and index.dtype == torch.bool for index in chosen)
        if function.overloadpacket in WAITS or masked:
            self.found.append(str(function))
        return function(*args, **(kwargs or {}))


def step(rows: Tensor, labels: Tensor, number: int = 1) -> Batch:
    return Batch(rows, torch.zeros(()), labels, rows, "teacher", number, Slot(0, 0))


def make(name: str, settings: dict[str, Any]) -> Any:
    factory = load("regularizers", name)
    return factory(factory.settings_model(**settings))


def term(
    name: str, settings: dict[str, Any], rows: Tensor, *, labels: Tensor = LABELS, real: RealEmbeddings = REAL
) -> Tensor:
    hook = build_manager({name: make(name, settings)}).hook
    (found,) = hook.loss_term(synthesis=cast(Synthesis, Fake(real)), batch=step(rows, labels))
    assert isinstance(found, Tensor)
    return found


# Its settings and what is written of it


@every_regularizer
def test_the_settings_have_defaults_and_know_no_other_key(name: str) -> None:
    model = settings_model(name)
    defaults = model()
    assert model(**defaults.model_dump(mode="json")) == defaults
    with pytest.raises(ValidationError, match="no_such_key"):
        model(no_such_key=1)
    with pytest.raises(ValidationError, match="frozen"):
        defaults.weight = 2  # type: ignore[attr-defined]


@every_regularizer
def test_a_regularizer_is_described(name: str) -> None:
    described = load("regularizers", name)
    assert inspect.getdoc(described)
    assert inspect.getdoc(described.settings_model)
    assert name == PROBE or f"`{name}`" in (ROOT / "docs" / "regularizers.md").read_text()


# The term


@every_choice
def test_a_term_is_a_scalar_with_its_graph(name: str, settings: dict[str, Any]) -> None:
    leaf = draw(len(LABELS), 4).requires_grad_()
    found = term(name, settings, leaf)
    (gradient,) = torch.autograd.grad(found, leaf)
    assert (found.shape, found.dtype) == ((), leaf.dtype)
    assert gradient.any()


@every_term
def test_its_gradient_equals_finite_differences(name: str, settings: dict[str, Any]) -> None:
    leaf = draw(len(LABELS), 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda rows: term(name, settings, rows), leaf)


@every_term
@pytest.mark.parametrize("labels", [[0], [0, 3]], ids=["one image", "one image a class"])
def test_one_image_a_class_has_its_true_gradient(name: str, settings: dict[str, Any], labels: list[int]) -> None:
    leaf, of = draw(len(labels), 4).requires_grad_(), torch.tensor(labels)
    assert torch.autograd.gradcheck(lambda rows: term(name, settings, rows, labels=of), leaf)


@every_choice
@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(draw(1, 4).repeat(len(LABELS), 1), id="equal rows"),
        pytest.param(torch.zeros(len(LABELS), 4, dtype=torch.float64), id="zero rows"),
        pytest.param(REAL.values[: len(LABELS)], id="rows that equal real ones"),
    ],
)
def test_degenerate_rows_give_finite_terms_and_gradients(name: str, settings: dict[str, Any], rows: Tensor) -> None:
    leaf = rows.clone().requires_grad_()
    found = term(name, settings, leaf)
    (gradient,) = torch.autograd.grad(found, leaf)
    assert math.isfinite(found.item())
    assert gradient.isfinite().all()


@every_choice
def test_float32_agrees_with_float64(name: str, settings: dict[str, Any]) -> None:
    rows, small = draw(len(LABELS), 4), RealEmbeddings(REAL.values.float(), REAL.labels)
    found = term(name, settings, rows.float(), real=small)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), term(name, settings, rows), rtol=1e-4, atol=1e-5)


@every_term
def test_classes_may_be_interleaved_in_any_way(name: str, settings: dict[str, Any]) -> None:
    rows, order = draw(len(LABELS), 4), LABELS.argsort(stable=True)  # within a class the order stays
    leaf, sorted_leaf = rows.clone().requires_grad_(), rows[order].requires_grad_()
    first, second = term(name, settings, leaf), term(name, settings, sorted_leaf, labels=LABELS[order])
    torch.testing.assert_close(first, second, rtol=1e-10, atol=1e-12)
    (one,), (other,) = torch.autograd.grad(first, leaf), torch.autograd.grad(second, sorted_leaf)
    torch.testing.assert_close(one[order], other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("name", "settings"), [one for one in TERMS if one not in PAIRED], ids=label)
def test_the_order_of_a_classs_images_says_nothing(name: str, settings: dict[str, Any]) -> None:
    rows = draw(len(LABELS), 4)
    turned = term(name, settings, rows.flip(0), labels=LABELS.flip(0))
    torch.testing.assert_close(turned, term(name, settings, rows), rtol=1e-10, atol=1e-12)


@every_term
def test_the_numbers_of_the_classes_say_nothing(name: str, settings: dict[str, Any]) -> None:
    rows, renamed = draw(len(LABELS), 4), torch.tensor([30, 20, 10, 5])
    labels = renamed[REAL.labels]
    order = labels.argsort(stable=True)
    real = RealEmbeddings(REAL.values[order], labels[order])
    found = term(name, settings, rows, labels=renamed[LABELS], real=real)
    torch.testing.assert_close(found, term(name, settings, rows), rtol=1e-10, atol=1e-12)


@every_term
def test_real_embeddings_of_other_classes_say_nothing(name: str, settings: dict[str, Any]) -> None:
    rows, kept = draw(len(LABELS), 4), REAL.labels != 2
    alone = RealEmbeddings(REAL.values[kept], REAL.labels[kept])
    found = term(name, settings, rows, real=alone)
    torch.testing.assert_close(found, term(name, settings, rows), rtol=1e-10, atol=1e-12)


@every_term
def test_a_class_without_real_embeddings_is_named(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(DirePlugError, match="no real embeddings of class 9"):
        term(name, settings, draw(1, 4), labels=torch.tensor([9]))


@every_term
def test_embeddings_of_another_width_are_refused(name: str, settings: dict[str, Any]) -> None:
    with pytest.raises(DirePlugError, match="embeddings have 3 values, the real ones 4"):
        term(name, settings, draw(len(LABELS), 3))


@every_term
def test_a_step_with_the_labels_of_the_last_one_waits_for_no_gpu(name: str, settings: dict[str, Any]) -> None:
    hook = build_manager({name: make(name, settings)}).hook
    synthesis, waits = cast(Synthesis, Fake(REAL)), Waits()
    hook.loss_term(synthesis=synthesis, batch=step(draw(len(LABELS), 4), LABELS))
    leaf = draw(len(LABELS), 4, seed=1).requires_grad_()
    with waits:
        (found,) = hook.loss_term(synthesis=synthesis, batch=step(leaf, LABELS, 2))
        torch.autograd.grad(found, leaf)
    assert waits.found == []
