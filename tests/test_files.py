"""Files written whole or not at all."""

import errno
import os
from pathlib import Path

import pytest

from dire_plug.errors import DirePlugError
from dire_plug.files import digest, format_duration, make_folder, new_folder, write_atomically


def test_a_full_disk_keeps_the_old_file_and_leaves_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "metrics.json"
    path.write_text("old")

    def no_space(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(DirePlugError, match="No space left on device"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_replaced_and_never_written_into(tmp_path: Path) -> None:
    path, opened_before = tmp_path / "metrics.json", tmp_path / "the same file"
    path.write_text("old")
    os.link(path, opened_before)
    write_atomically(path, "new")
    assert (path.read_text(), opened_before.read_text()) == ("new", "old")
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_folder_below_a_regular_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DirePlugError, match=f"at {tmp_path / 'file'}"):
        make_folder(tmp_path / "file" / "runs")


def test_a_folder_that_was_not_finished_is_absent(tmp_path: Path) -> None:
    def fill_half() -> None:
        with new_folder(tmp_path / "tree") as folder:
            (folder / "half").write_text("")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fill_half()
    assert list(tmp_path.iterdir()) == []


def test_a_digest_does_not_depend_on_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1})
    assert digest({"a": 1}) != digest({"a": 2})


DURATIONS = {
    0: "0 s",
    0.3: "< 1 s",
    8: "8 s",
    90: "1.5 min",
    7_200: "2 h",
    86_399: "24 h",
    864_000: "10 d",
    99.6 * 86_400: "100 d",
    1234.5 * 86_400: "1,234 d",
}


@pytest.mark.parametrize(("seconds", "text"), DURATIONS.items())
def test_a_duration_has_a_unit_that_suits_and_no_exponent(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
