"""The ladder: how the overrides of `dire` are cut into rungs, the arms between baseline and control."""

from typing import Any

import pytest

from dire_plug.errors import DirePlugError
from dire_plug.pipeline import Request, plan_run
from dire_plug.pipeline.request import ladder_of
from dire_plug.recipe.ladder import cut_ladder, rung_number
from dire_plug.results.ladder import find_steps, order_arms

RELEASE: dict[str, Any] = {
    "recover": {
        "flags": {"batch-size": 50, "jitter": 2, "r-bn": 1.0, "lr": 0.1},
        "plan": {"per_class": 10},
        "start": "real",
    },
    "term": {"network": "several"},
    "real": {"per_class": 3},
}


def test_the_start_comes_first_and_the_batches_last() -> None:
    rungs = cut_ladder(RELEASE)
    assert list(rungs) == ["rung-1-start", "rung-2-lr", "rung-3-r-bn", "rung-4-jitter"]
    assert rungs["rung-1-start"] == {"recover": {"start": "real"}}
    assert rungs["rung-2-lr"] == {"recover": {"start": "real", "flags": {"lr": 0.1}}}
    assert rungs["rung-4-jitter"]["recover"] == {"start": "real", "flags": {"lr": 0.1, "r-bn": 1.0, "jitter": 2}}


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"recover": {}},
        {"recover": {"start": "real"}},
        {"recover": {"plan": {"per_class": 2}, "bank": True, "flags": {"batch-size": 2}}},
        {"prepare": {"experts": 2, "epochs": 1}},
        {"term": {"network": "several"}, "recover": {"plan": {"per_class": 2}}},
    ],
)
def test_one_change_or_none_leaves_no_arm_before_control(overrides: dict[str, Any]) -> None:
    assert cut_ladder(overrides) == {}


def test_other_sections_are_one_change_each() -> None:
    found = cut_ladder(
        {"prepare": {"experts": 2, "epochs": 1}, "recover": {"embedder": {"network": "loop"}, "start": "x"}}
    )
    assert list(found) == ["rung-1-start", "rung-2-prepare"]
    assert found["rung-2-prepare"] == {"prepare": {"experts": 2, "epochs": 1}, "recover": {"start": "x"}}


def test_the_number_of_a_rung_orders_the_arms() -> None:
    names = ["dire", "rung-10-jitter", "random", "rung-9-lr", "control", "baseline", "rungs", "rung-x"]
    assert order_arms(names) == ["baseline", "rung-9-lr", "rung-10-jitter", "control", "dire"]
    assert [rung_number(name) for name in ("rung-10-x", "rung-x", "baseline")] == [10, None, None]


def test_steps_say_what_changes_in_words() -> None:
    base = {"recover": {"start": "noise", "plan": "keep", "flags": {"lr": 0.2, "batch-size": 100}}}
    more = {"recover": {"start": "real", "plan": "keep", "flags": {"lr": 0.1, "batch-size": 100}}}
    whole = {"recover": {"start": "real", "plan": {"per_class": 10}, "flags": {"lr": 0.1, "batch-size": 50}}}
    steps = find_steps({"baseline": base, "rung-1-start": more, "control": whole, "dire": whole})
    assert [step.change for step in steps] == [
        "real start, lr 0.1",
        "batch-size 50, 10 of a class in a batch",
        "the term",
    ]
    assert steps[0].keys == {"recover.start": ("noise", "real"), "recover.flags.lr": (0.2, 0.1)}


def test_the_command_line_wins_over_a_rung_as_over_an_arm(bare_home: object) -> None:
    request = Request("sre2l", recipe="cifar-100", settings=("recover.flags.lr=0.3",))
    assert ladder_of(request) == ("baseline", "rung-1-start", "rung-2-lr", "rung-3-r-bn", "control", "dire")
    for arm in ("rung-1-start", "rung-3-r-bn"):
        planned = plan_run(Request("sre2l", recipe="cifar-100", arm=arm, settings=request.settings), dry=True)
        assert planned.recipe.recover.flags["lr"] == 0.3
        assert planned.regularizers == {}


def test_an_unknown_rung_is_refused_with_the_ladder(bare_home: object) -> None:
    message = r"no arm 'rung-2-lr' .*; this recipe's ladder has rung-1-start"
    with pytest.raises(DirePlugError, match=message):
        plan_run(Request("sre2l", arm="rung-2-lr"), dry=True)
