"""Write and read job.json: all that the child process gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dire_plug.errors import DirePlugError
from dire_plug.files import read_json, write_json


@dataclass(frozen=True)
class ChildJob:
    """One run of one upstream script in a child process.

    Attributes:
        tree: the vendored tree; it is verified again by the child.
        script: path of the script below `tree`.
        arguments: those of every pass.
        folder: the run's folder; job.json and scratch/ (the child's home, working folder and, without another disk for
            it, TMPDIR) lie in it.
        passes: the passes to run, in order.
        pass_arguments: pass → the arguments added for it.
        shims: shim → its options; the child adds those that it always installs.
        synthesis: what `open_synthesis` takes, or None for a script without our patch.
        seed: each pass is seeded from (seed, pass).
        device: `cpu` or `cuda:N`, as the parent counts; the child sees that device alone.
        gpus: how many GPUs the child sees instead, from that device on, where the script uses several.
        threads: of torch in the child.
        trace: a file that gets a line for every optimiser step, or None.
        stop_after_steps: end the script after so many optimiser steps, all passes together; None lets it end.
        turns: what `interleave.take_turns` gets, where each step waits for its turn; None where none does.
        optimized: the script's variables, as `Script.optimized` names them, where it is traced.
        observed: the settings of `observe.observe`, where `verify` looks on; None where nobody does.
    """

    tree: Path
    script: str
    arguments: tuple[str, ...]
    folder: Path
    passes: tuple[int, ...] = (0,)
    pass_arguments: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    shims: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    synthesis: Mapping[str, Any] | None = None
    seed: int = 0
    device: str = "cpu"
    gpus: int = 1
    threads: int = 1
    trace: Path | None = None
    stop_after_steps: int | None = None
    turns: Mapping[str, Any] | None = None
    optimized: tuple[str, ...] = ()
    observed: Mapping[str, Any] | None = None

    @property
    def patched(self) -> bool:
        """Whether the script runs with a synthesis attached."""
        return self.synthesis is not None

    def write(self) -> Path:
        """Write job.json into the run's folder and return its path."""
        path = self.folder.absolute() / "job.json"
        trace = str(self.trace.absolute()) if self.trace else None
        paths = {"tree": str(self.tree.absolute()), "folder": str(self.folder.absolute()), "trace": trace}
        write_json(path, asdict(self) | paths)  # absolute: the child works elsewhere
        return path

    @staticmethod
    def read(path: Path) -> ChildJob:
        """Read what `write` wrote."""
        content: dict[str, Any] = read_json(path)
        try:
            return ChildJob(
                **content
                | {
                    "tree": Path(content["tree"]),
                    "folder": Path(content["folder"]),
                    "arguments": tuple(content["arguments"]),
                    "passes": tuple(content["passes"]),
                    "optimized": tuple(content["optimized"]),
                    "pass_arguments": {int(key): tuple(value) for key, value in content["pass_arguments"].items()},
                    "trace": Path(content["trace"]) if content["trace"] else None,
                }
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DirePlugError(f"{path}: not a job of this version: {error!r}") from error
