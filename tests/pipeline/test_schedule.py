"""The simulated list schedule, on graphs small enough to schedule by hand."""

import pytest

from dire_plug.pipeline.schedule import critical_path, paths_ahead, simulate

# a ─┬─ b ── d
#    └─ c      e alone
SECONDS = {"a": 2.0, "b": 3.0, "c": 1.0, "d": 4.0, "e": 5.0}
NEEDS: dict[str, set[str]] = {"a": set(), "b": {"a"}, "c": {"a"}, "d": {"b"}, "e": set()}


def test_the_longest_path_is_found() -> None:
    assert paths_ahead(SECONDS, NEEDS) == {"a": 9.0, "b": 7.0, "c": 1.0, "d": 4.0, "e": 5.0}
    assert critical_path(SECONDS, NEEDS) == ["a", "b", "d"]


def test_one_gpu_takes_the_sum_and_never_waits() -> None:
    found = simulate(SECONDS, NEEDS, gpus=1)
    assert (found.makespan, found.idle) == (15.0, 0.0)


def test_two_gpus_start_the_longest_path_first() -> None:
    # a and e at 0, b at 2, c at 5 beside d, which ends at 9; of 18 GPU-seconds 3 are idle
    found = simulate(SECONDS, NEEDS, gpus=2)
    assert found.makespan == 9.0
    assert found.idle == pytest.approx(3 / 18)


def test_the_longest_path_goes_before_a_long_unit() -> None:
    # by length alone c would go first, and the chain would end at 3 + 2 + 2
    seconds, needs = {"a": 2.0, "b": 2.0, "c": 3.0}, {"a": set[str](), "b": {"a"}, "c": set[str]()}
    assert simulate(seconds, needs, gpus=1).makespan == 7.0
    assert simulate(seconds, needs, gpus=2).makespan == 4.0


def test_more_gpus_than_units_take_the_critical_path() -> None:
    assert simulate(SECONDS, NEEDS, gpus=64).makespan == 9.0


def test_no_units_take_no_time() -> None:
    found = simulate({}, {}, gpus=8)
    assert (found.makespan, found.idle) == (0.0, 0.0)
    assert critical_path({}, {}) == []
