"""The vocabulary of measures: keys of JSON, frames and CSV files."""

from typing import Any

from dire_plug.measures import diversity_measures, read_values, run_measures, set_measures, to_key

METRICS: dict[str, Any] = {
    "accuracy": {"students": {"a": {"last": [50.0, 52.0], "best": None}, "b": {"last": [60.0, 66.0], "best": None}}},
    "diversity": {
        "T": {"coverage": 0.25, "class_coverage": 0.5, "vendi": 3.0, "class_vendi": 2.0, "similarity": 0.9},
        "I": {"coverage": 0.125, "class_coverage": None, "vendi": 4.0, "class_vendi": 2.5, "similarity": 0.8},
    },
}


def test_keys_are_identifiers_and_no_two_are_alike() -> None:
    keys = [measure.key for measure in (*run_measures(), *set_measures("clip"), *set_measures("torchvision:vit_b_16"))]
    assert [key for key in keys if not key.isidentifier() or key != key.lower()] == []
    assert len(set(keys)) == len(keys)


def test_values_of_a_run_are_read_by_key_in_the_units_of_tables() -> None:
    found = read_values(METRICS)
    assert found["accuracy_last"] == 57.0  # (50 + 52 + 60 + 66) / 4
    assert found["students_std_last"] == (2**0.5 + 18**0.5) / 2
    assert (found["accuracy_best"], found["class_coverage_independent"]) == (None, None)
    assert (found["coverage_teacher"], found["coverage_independent"], found["vendi_teacher"]) == (25.0, 12.5, 3.0)


def test_a_runs_measures_are_some_of_a_sets() -> None:
    assert {one.key for one in diversity_measures("T")} < {one.key for one in set_measures("T")}
    assert [one.key for one in set_measures("T")] == [one.key for one in set_measures("teacher")]


def test_a_name_becomes_a_part_of_a_key() -> None:
    assert [to_key(name) for name in ("torchvision:ViT_B_16", "IOR plain", "T")] == [
        "torchvision_vit_b_16",
        "ior_plain",
        "t",
    ]
