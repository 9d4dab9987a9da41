"""Stand-ins for datasets that aren't here."""

import pytest

from dire_plug.data import load, names, stand_in
from dire_plug.data.stand_in import SIZES
from dire_plug.errors import DirePlugError


def test_every_dataset_has_a_stand_in_with_its_classes() -> None:
    assert SIZES.keys() == set(names())
    for name in names():
        found = stand_in(name)
        assert set(found.train.labels.tolist()) == set(range(len(found.classes)))


def test_the_stand_in_of_the_digits_is_of_their_size() -> None:
    digits, found = load("digits"), stand_in("digits")
    assert (len(found.train), len(found.test), found.size) == (len(digits.train), len(digits.test), digits.size)
    assert found.digest != digits.digest


def test_limits_sizes_and_validation_images_are_taken_off() -> None:
    found = stand_in("cifar-10", size=16, limit=500, validation=100, judge="validation")
    assert (len(found.train), len(found.test), found.size, found.judged) == (400, 100, 16, "validation")
    kept = stand_in("cifar-10", size=16, limit=500, validation=100)
    # one digest under both judges, so that they share networks
    assert (len(kept.test), kept.judged, kept.digest) == (10_000, "test", found.digest)
    assert stand_in("cifar-10").digest != found.digest


def test_a_stand_in_has_no_images() -> None:
    with pytest.raises(DirePlugError, match="has no images"):
        stand_in("digits").train.images()
