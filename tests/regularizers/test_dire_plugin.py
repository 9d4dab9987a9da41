"""The plugin DiRe: its settings, and what it asks of and leaves in a synthesis."""

from typing import Any, cast

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from dire_plug.api import term
from dire_plug.api.real_embeddings import PreparedReal
from dire_plug.api.term import MemoryBank
from dire_plug.plugins import build_manager
from dire_plug.regularizers import diversity_loss
from dire_plug.regularizers.dire import DiRe, DiReSettings
from dire_plug.types import Batch, RealEmbeddings, Slot, Synthesis

LABELS = torch.tensor([0, 1, 0, 1])


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Fake:
    """A synthesis that holds real embeddings and a state; the former are the same object until `renew`."""

    def __init__(self, *, bank: bool = False, positive: bool = False) -> None:
        self.bank = bank
        self.held: dict[str, RealEmbeddings] = {}
        self.kept: dict[str, Tensor] = {}
        self.recorded: dict[str, Tensor | float] = {}
        self.nonnegative = self.positive = positive

    def real(self, teacher: str) -> RealEmbeddings:
        if teacher not in self.held:
            self.renew(teacher, seed=3)
        return self.held[teacher]

    def renew(self, teacher: str, *, seed: int) -> None:
        values = draw(10, len(teacher), seed=seed)
        self.held[teacher] = RealEmbeddings(values.abs() if self.positive else values, torch.arange(10) // 5)

    def state(self, plugin: object) -> dict[str, Tensor]:
        return self.kept

    def record(self, name: str, value: Tensor | float, *, component: bool = False) -> None:
        assert component == (name in ("cd", "cdm", "edm"))
        self.recorded[name] = value


def step(seed: int = 0, *, teacher: str = "resnet", slot: Slot | None = None, labels: Tensor = LABELS) -> Batch:
    return Batch(
        images=torch.zeros(len(labels), 3, 2, 2, requires_grad=True),
        loss=torch.zeros((), dtype=torch.float64),
        labels=labels,
        embeddings=draw(len(labels), len(teacher), seed=seed).requires_grad_(),
        teacher=teacher,
        step=0,
        slot=slot or Slot(0, 0),
    )


def dire(**settings: Any) -> DiRe:
    return DiRe(DiReSettings(**settings))


def run(plugin: DiRe, synthesis: Fake, batch: Batch) -> Tensor:
    return plugin.loss_term(cast(Synthesis, synthesis), batch)


def finish(plugin: DiRe, synthesis: Fake, slot: Slot) -> None:
    plugin.slot_done(cast(Synthesis, synthesis), slot)


def test_the_defaults_are_those_of_the_release() -> None:
    settings = DiReSettings()
    assert (settings.variant, settings.multiplier, settings.r_c, settings.r_e) == ("released", 0.1, 1.0, 0.01)
    assert settings.components == ("cd", "cdm", "edm")
    assert settings.r_e_relative is False


def test_the_papers_variant_has_no_multiplier_unless_given() -> None:
    assert DiReSettings(variant="paper").multiplier == 1
    assert DiReSettings(variant="paper", multiplier=0.3).multiplier == 0.3


@pytest.mark.parametrize(
    "settings",
    [
        {"r_c": -1},
        {"r_e": float("nan")},
        {"multiplier": float("inf")},
        {"variant": "printed"},
        {"components": []},
        {"components": ["cd", "cd"]},
        {"components": ["mmd"]},
        {"reduction": "mean"},
        {"rc": 1},
    ],
)
def test_settings_out_of_bounds_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        DiReSettings(**settings)


def test_the_term_is_the_loss_with_the_recipes_settings() -> None:
    synthesis, batch = Fake(), step()
    chosen: dict[str, Any] = {"variant": "paper", "r_c": 0.2, "r_e": 0.4, "multiplier": 3.0, "reduction": "mean"}
    term = run(dire(**chosen, components=["cd", "edm"]), synthesis, batch)
    expected = diversity_loss(batch.embeddings, LABELS, synthesis.real("resnet"), **chosen, components=("cd", "edm"))
    assert term == expected
    term.backward()  # type: ignore[no-untyped-call]
    assert batch.embeddings.grad is not None
    assert batch.embeddings.grad.any()


def test_the_components_are_recorded_as_shares_of_the_term() -> None:
    synthesis = Fake()
    term = run(dire(r_c=0.7, r_e=0.3), synthesis, step())
    assert list(synthesis.recorded) == ["cd", "cdm", "edm"]
    assert sum(map(float, synthesis.recorded.values())) == pytest.approx(float(term.detach()), rel=1e-12)
    only = Fake()
    alone = run(dire(components=("edm",), r_e=0.3), only, step())
    assert {name: float(value) for name, value in only.recorded.items()} == {
        "edm": pytest.approx(float(alone.detach()))
    }


def test_a_relative_r_e_is_in_units_of_each_teachers_own_mean_norm() -> None:
    synthesis, plugin = Fake(), dire(components=["edm"], r_e=0.3, r_e_relative=True, multiplier=1)
    for teacher in ("resnet", "convnet"):
        batch, given = step(teacher=teacher), synthesis.real(teacher)
        unit = float(given.values.norm(dim=1).mean())
        plain = diversity_loss(batch.embeddings, LABELS, given, components=("edm",), r_e=0.3, multiplier=1)
        torch.testing.assert_close(run(plugin, synthesis, batch), plain / unit, rtol=1e-12, atol=0)


def test_real_embeddings_are_prepared_once_per_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared: list[RealEmbeddings] = []

    def note(given: RealEmbeddings) -> PreparedReal:
        prepared.append(given)
        return PreparedReal(given)

    monkeypatch.setattr(term, "prepare_real", note)
    synthesis, plugin = Fake(), dire()
    for seed in range(3):
        for teacher in ("resnet", "convnet"):
            run(plugin, synthesis, step(seed, teacher=teacher))
    assert prepared == [synthesis.real("resnet"), synthesis.real("convnet")]


def test_real_embeddings_that_change_are_prepared_anew() -> None:
    synthesis, plugin = Fake(), dire()
    run(plugin, synthesis, step())
    synthesis.renew("resnet", seed=4)
    changed = run(plugin, synthesis, step())
    torch.testing.assert_close(changed, run(dire(), synthesis, step()), rtol=0, atol=0)
    assert not torch.equal(changed, run(dire(), Fake(), step()))


@pytest.mark.parametrize("positive", [False, True])
def test_signed_and_nonnegative_embeddings_are_told_apart(positive: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def record(*_: object, nonnegative: bool, **__: object) -> Tensor:
        seen.append(nonnegative)
        return torch.zeros(())

    monkeypatch.setattr("dire_plug.regularizers.dire.diversity_loss", record)
    run(dire(), Fake(positive=positive), step())
    assert seen == [positive]


def test_without_a_bank_a_plugin_keeps_nothing() -> None:
    synthesis, plugin = Fake(), dire()
    run(plugin, synthesis, step())
    finish(plugin, synthesis, Slot(0, 0))
    assert synthesis.kept == {}


def test_later_slots_see_the_last_embeddings_of_a_finished_one() -> None:
    synthesis, plugin = Fake(bank=True), dire()
    first, last, later = step(0), step(1), step(2, slot=Slot(1, 0))
    for batch in (first, last):
        assert run(plugin, synthesis, batch) == run(dire(), Fake(), batch)
    finish(plugin, synthesis, Slot(0, 0))
    torch.testing.assert_close(synthesis.kept["resnet.embeddings"], last.embeddings.detach(), rtol=0, atol=0)
    assert synthesis.kept["resnet.labels"].tolist() == LABELS.tolist()
    bank = MemoryBank()
    bank.add(last.embeddings, LABELS)
    expected = diversity_loss(later.embeddings, LABELS, synthesis.real("resnet"), bank=bank)
    assert run(plugin, synthesis, later) == expected != run(dire(), Fake(), later)


def test_each_teacher_has_a_bank_of_its_own() -> None:
    synthesis, plugin = Fake(bank=True), dire()
    run(plugin, synthesis, step(0, teacher="resnet"))
    run(plugin, synthesis, step(1, teacher="convnet"))
    finish(plugin, synthesis, Slot(0, 0))
    assert synthesis.kept["resnet.embeddings"].shape == (4, 6)
    assert synthesis.kept["convnet.embeddings"].shape == (4, 7)


def test_a_resumed_plugin_goes_on_from_the_state() -> None:
    synthesis, plugin = Fake(bank=True), dire()
    run(plugin, synthesis, step(0))
    finish(plugin, synthesis, Slot(0, 0))
    resumed, again = Fake(bank=True), dire()
    resumed.kept = {name: tensor.clone() for name, tensor in synthesis.kept.items()}
    later = step(1, slot=Slot(1, 0))
    assert run(again, resumed, later) == run(plugin, synthesis, later)
    finish(again, resumed, Slot(1, 0))
    assert len(resumed.kept["resnet.labels"]) == 8


def test_a_plugin_follows_a_state_that_was_set_back() -> None:
    synthesis, plugin = Fake(bank=True), dire()
    run(plugin, synthesis, step(0))
    finish(plugin, synthesis, Slot(0, 0))
    synthesis.kept = {}
    batch = step(1)
    assert run(plugin, synthesis, batch) == run(dire(), Fake(), batch)


def test_embeddings_of_another_slot_are_not_put_into_the_bank() -> None:
    synthesis, plugin = Fake(bank=True), dire()
    run(plugin, synthesis, step(0, slot=Slot(0, 0)))
    finish(plugin, synthesis, Slot(0, 1))
    assert synthesis.kept == {}


def test_the_plugin_answers_hooks_that_exist() -> None:
    manager = build_manager({"dire": dire()})
    assert [len(getattr(manager.hook, hook).get_hookimpls()) for hook in ("loss_term", "slot_done")] == [1, 1]
