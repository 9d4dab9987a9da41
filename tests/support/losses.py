"""What a loss record must satisfy."""

import pytest


def assert_parts_add_up(curves: dict[str, list[float]], *parts: str) -> None:
    """Assert that the parts of dire are, at each step, the term as it was added."""
    sums = [sum(values) for values in zip(*(curves[part] for part in parts), strict=True)]
    assert sums == pytest.approx(curves["dire"], rel=1e-5)
