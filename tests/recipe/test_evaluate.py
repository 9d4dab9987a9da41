"""The section `evaluate` of a recipe: each protocol has keys of its own, and what is wrong is told as elsewhere."""

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from dire_plug.errors import DirePlugError
from dire_plug.methods.sre2l import SRe2L
from dire_plug.recipe import check_recipe, read_yaml, resolve
from dire_plug.recipe.evaluate import PROTOCOLS, Evaluate, OnTheFlySection
from dire_plug.recipe.loading import merge

ADAPTER = SRe2L()
QUICK = read_yaml(ADAPTER.recipes() / "quick.yaml")


def problems_of(evaluate: Any) -> list[str]:
    """Return what is told of the recipe `quick` with another section."""
    with pytest.raises(DirePlugError) as caught:
        check_recipe({**QUICK, "name": "quick", "evaluate": evaluate, "sources": {}}, adapter=ADAPTER)
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


def section(protocol: str, **keys: Any) -> dict[str, Any]:
    return {"protocol": protocol, "students": ["resnet-small"], **keys}


@pytest.mark.parametrize(
    ("evaluate", "line"),
    [
        (
            section("hard-labels", temprature=3),
            "evaluate.temprature: unknown key",
        ),
        (section("delt", min_scal=0.25), "evaluate.min_scal: unknown key (did you mean 'min_scale'?)"),
        (section("delt", min_scale=2), "evaluate.min_scale: must be at most 1 (is 2)"),
        (section("delt", randaugment={"magnitude": 11}), "evaluate.randaugment.magnitude: must be at most 10 (is 11)"),
        (section("delt", randaugment={"operation": 2}), "evaluate.randaugment.operation: unknown key (did you mean"),
        (section("delt", mixup=0.8), "evaluate: mixup and cutmix exclude each other; set one of them to 0"),
        (section("sre2l-tiny", epochs=5), "evaluate: warmup_epochs: 5 leaves nothing of 5 epochs; lower it"),
        (section("hard-labels", lr="learnt"), "evaluate.lr: must be 'learned' or a finite number greater than 0 (is"),
        (section("hard-labels", lr=0), "evaluate.lr: must be 'learned' or a finite number greater than 0 (is 0)"),
        (section("hard-labels", lr=True), "evaluate.lr: must be 'learned' or a finite number greater than 0 (is True)"),
        (
            section("hard-labels", dsa="flip_roatte"),
            "evaluate.dsa: no operation of DSA is named 'roatte' (did you mean 'rotate'?); none, or any of color, crop",
        ),
        (section("ensemble-labels", optimiser="adam"), "evaluate.optimiser: must be 'adamw' or 'sgd' (is 'adam')"),
        (section("hardlabels"), "evaluate.protocol: no protocol is named 'hardlabels' (did you mean 'hard-labels'?)"),
        ({"students": ["resnet-small"]}, "evaluate.protocol: is missing"),
        ("on-the-fly", "evaluate: must be a mapping of keys to values (is 'on-the-fly')"),
    ],
)
def test_a_wrong_key_or_value_is_told_where_it_is(evaluate: Any, line: str) -> None:
    (told,) = problems_of(evaluate)
    assert told.startswith(line)


def test_an_unknown_protocol_lists_those_there_are() -> None:
    (told,) = problems_of(section("x"))
    assert told.endswith(
        "; one of on-the-fly, hard-labels, static-labels, dynamic-labels, ensemble-labels, delt, sre2l-tiny, "
        "dwa-tiny, fkd, fkd-ensemble, cv-dd"
    )


def test_all_that_is_wrong_is_told_beside_an_unknown_protocol() -> None:
    told = problems_of({"protocol": "delta", "students": [], "epochs": 0, "min_scale": 0.25, "second_forwar": True})
    assert sorted(told)[:3] == [
        "evaluate.epochs: must be at least 1 (is 0)",
        told[0],
        "evaluate.second_forwar: unknown key (did you mean 'second_forward'?)",
    ]
    assert told[0].startswith("evaluate.protocol: no protocol is named 'delta' (did you mean 'delt'?)")
    assert "evaluate.students: needs at least 1" in told


def test_a_setting_reaches_the_keys_of_the_protocol() -> None:
    raw = merge({**QUICK, "name": "quick"}, {"sources": {}})
    raw["evaluate"] = section("hard-labels")
    settings = ["evaluate.lr=learned", "evaluate.epochs=7", "evaluate.whiten=true"]
    evaluate = resolve(raw, arm="baseline", ipc=None, preset=None, settings=settings, adapter=ADAPTER).recipe.evaluate
    values = evaluate.model_dump()
    assert (values["lr"], values["epochs"], values["whiten"], values["source"]) == ("learned", 7, True, "tensor")


def test_a_resolved_section_reads_as_itself_again() -> None:
    adapter = TypeAdapter[Any](Evaluate)
    for protocol in PROTOCOLS:
        first = adapter.validate_python(section(protocol))
        assert adapter.validate_python(first.model_dump(mode="json")) == first


def test_the_keys_of_on_the_fly_are_those_that_runs_are_named_by() -> None:
    keys = {
        *("protocol", "students", "per_synthesis", "epochs", "batch_size", "test_from", "test_every", "source"),
        *("lr", "weight_decay", "temperature", "mixup", "augmentation", "padding", "cutmix", "teacher_mode", "judge"),
    }
    plain = OnTheFlySection(protocol="on-the-fly", students=("x",))
    assert set(plain.model_dump()) == keys
    # what came later counts where a recipe sets it, so that other recipes' students keep their names
    sparing = OnTheFlySection(protocol="on-the-fly", students=("x",), decay="matrices")
    assert set(sparing.model_dump()) - keys == {"decay"}


def test_infinite_learning_rates_are_refused() -> None:
    with pytest.raises(ValidationError, match="finite number"):
        TypeAdapter[Any](Evaluate).validate_python(section("hard-labels", lr=float("inf")))
