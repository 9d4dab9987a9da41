"""What one must know to read the rows of real images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

CHOSEN = ("herding", "k-center", "k-means")
SEEDLESS = ("herding", "k-center")
"""Arms that choose the same images with every seed."""


def real_image_notes(metrics: Mapping[str, Mapping[str, Any]], *, seeds: int) -> list[str]:
    """Return the lines below the tables.

    Args:
        metrics: arm → metrics.json of its first run.
        seeds: how many runs each arm has.
    """
    lines = []
    if "random" in metrics:
        lines.append("random: as many real training images under the same protocol")
    if chosen := [arm for arm in CHOSEN if arm in metrics]:
        lines.append(f"{_join(chosen)}: likewise, chosen by the teacher's embeddings, so I is the fairer judge of them")
    if seeds > 1 and (same := [arm for arm in SEEDLESS if arm in metrics]):
        lines.append(f"{_join(same)}: the same images with every seed, so the spread is over students alone")
    if "full" in metrics:
        lines += full_notes(metrics["full"])
    return lines


def full_notes(metrics: Mapping[str, Any]) -> list[str]:
    """Return how long students of the arm `full` learned, and why it has no coverage."""
    lines = ["full: no coverage (–): its images are those to be covered, so each covers itself"]
    if budget := metrics["accuracy"].get("full"):
        epochs = f"{budget['epochs']} epoch{'' if budget['epochs'] == 1 else 's'}"
        steps = f"{budget['steps']:,} steps; IPC images per class get {budget['subset_steps']:,}"
        lines.insert(0, f"full: all {budget['images']:,} training images, in {epochs} ({steps})")
    return lines


def _join(names: Sequence[str]) -> str:
    return ", ".join(names)
