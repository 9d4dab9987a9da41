"""Simulate a list schedule of units of work: the longest path first, on a number of GPUs that are alike."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Set
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """A simulated schedule.

    Attributes:
        makespan: seconds from the first start to the last end.
        idle: the share of the GPUs' time in which they wait, 0 … 1.
    """

    makespan: float
    idle: float


def simulate(seconds: Mapping[str, float], needs: Mapping[str, Set[str]], *, gpus: int) -> Schedule:
    """Return the schedule in which a free GPU takes, of the units that can start, the one with the longest path ahead.

    Args:
        seconds: the name of each unit → how long it takes.
        needs: the name of each unit → the names of those that must have ended.
    """
    ahead, users = paths_ahead(seconds, needs), _users(needs)
    missing = {name: len(needs[name]) for name in seconds}
    ready = [(-ahead[name], name) for name in seconds if not missing[name]]
    heapq.heapify(ready)
    running: list[tuple[float, str]] = []
    now = 0.0
    while ready or running:
        while ready and len(running) < gpus:
            _, name = heapq.heappop(ready)
            heapq.heappush(running, (now + seconds[name], name))
        now, ended = heapq.heappop(running)
        for name in users[ended]:
            missing[name] -= 1
            if not missing[name]:
                heapq.heappush(ready, (-ahead[name], name))
    # not below 0 by a rounding error
    return Schedule(now, max(0.0, 1 - sum(seconds.values()) / (gpus * now)) if now else 0.0)


def critical_path(seconds: Mapping[str, float], needs: Mapping[str, Set[str]]) -> list[str]:
    """Return the names of the units on the longest path, in order: no number of GPUs is faster than their sum."""
    ahead, users = paths_ahead(seconds, needs), _users(needs)
    path: list[str] = []
    following: Set[str] = seconds.keys()
    while following:
        path.append(max(following, key=lambda name: ahead[name]))
        following = users[path[-1]]
    return path


def paths_ahead(seconds: Mapping[str, float], needs: Mapping[str, Set[str]]) -> dict[str, float]:
    """Return the name of each unit → the seconds of the longest path that begins with it."""
    users, found = _users(needs), dict[str, float]()
    waiting = {name: len(others) for name, others in users.items()}
    done = [name for name, count in waiting.items() if not count]
    while done:
        name = done.pop()
        found[name] = seconds[name] + max((found[other] for other in users[name]), default=0.0)
        for other in needs[name]:
            waiting[other] -= 1
            if not waiting[other]:
                done.append(other)
    return found


def _users(needs: Mapping[str, Set[str]]) -> dict[str, set[str]]:
    """Return the name of each unit → the names of those that need it."""
    users: dict[str, set[str]] = {name: set() for name in needs}
    for name, others in needs.items():
        for other in others:
            users[other].add(name)
    return users
