"""Rates of named GPUs by their sources, and of this machine, measured once and kept."""

import json
from pathlib import Path

import pytest
from support.cli import Cli

from dire_plug.errors import DirePlugError
from dire_plug.pipeline.network_costs import count_pass
from dire_plug.pipeline.rates import CARDS, FILE, IMAGES, RESNET_50, find_kept, find_rate, measure_rate


@pytest.mark.parametrize("name", CARDS)
def test_every_gpu_has_a_source_and_its_memory(name: str) -> None:
    card, rate = CARDS[name], find_rate(name)
    assert card.source.startswith("https://")
    assert card.source in rate.describe()
    assert rate.memory == card.memory >= 16 * 10**9
    assert rate.operations == card.images * RESNET_50
    assert rate.mixed is not None
    assert 1 < rate.mixed < 4


def test_published_images_are_counted_as_networks_are() -> None:
    one = count_pass(architecture="resnet-50", outputs=1000, stem="imagenet", size=224)
    assert pytest.approx(one.both, rel=0.01) == RESNET_50


def test_an_unknown_gpu_is_an_error_with_the_nearest_name() -> None:
    with pytest.raises(DirePlugError, match=r"--card h10: .*did you mean 'h100'\?.*rtx-4090"):
        find_rate("h10")


@pytest.fixture(autouse=True)
def one_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure by small steps."""
    monkeypatch.setitem(IMAGES, "cpu", 1)


def test_this_machines_rate_is_measured_once_and_kept(bare_home: Path) -> None:
    unknown = find_rate(None, device="cpu")
    assert (unknown.operations, unknown.time(1e12), find_kept("cpu")) == (0, "–", None)
    assert "dire-plug doctor --measure-rate, or name a GPU" in unknown.describe()
    assert not bare_home.exists()
    first = measure_rate("cpu")
    # a second measurement would differ in some digit
    assert find_rate(None, device="cpu") == first == find_kept("cpu")
    assert "measured on 20" in first.because
    assert "thread" in first.what


def test_a_kept_rate_is_measured_again_only_when_asked(bare_home: Path) -> None:
    measure_rate("cpu")
    file = bare_home / "store" / FILE
    (key,) = json.loads(file.read_text())
    file.write_text(json.dumps({key: {"operations": 1.0, "measured": "2000-01-01"}, "another machine": {}}))
    assert find_rate(None, device="cpu").operations == 1.0
    assert measure_rate("cpu").operations > 1e6
    assert json.loads(file.read_text()).keys() == {key, "another machine"}


def test_doctor_measures_the_rate_when_asked_and_shows_it(cli: Cli, bare_home: Path) -> None:
    assert "not measured yet: --measure-rate" in cli("doctor").out
    assert not (bare_home / "store").exists()
    assert "TFLOP/s, measured on 20" in cli("doctor", "--measure-rate").out
    assert (bare_home / "store" / FILE).is_file()


def test_a_rate_tells_the_time_of_operations() -> None:
    assert find_rate("h100").time(1898 * RESNET_50 * 90) == "1.5 min"
