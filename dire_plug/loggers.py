"""Log finished runs to TensorBoard and Weights & Biases: plugins of `--log`, which answer the hook `run_done`.

Both write in the command's own process when a run is finished, from its record: an interrupted and resumed run, or one
whose stages ran as jobs, is logged once and whole, and no bit of it depends on whether it is.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from dire_plug import ui
from dire_plug.errors import DirePlugError
from dire_plug.files import digest, read_json, write_json
from dire_plug.hookspecs import hookimpl
from dire_plug.measures import read_values

PROJECT = "dire-plug"


class TensorBoard:
    """A folder `tensorboard` in the run's own, so that `tensorboard --logdir runs` shows each run by its name."""

    def __init__(self) -> None:
        """Import TensorBoard, so that a missing one is said before anything runs."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise missing("tensorboard") from error
        self._open: Any = SummaryWriter

    @hookimpl
    def run_done(
        self, folder: Path, recipe: Mapping[str, Any], metrics: Mapping[str, Any], losses: Mapping[str, Any] | None
    ) -> None:
        """Write the losses step by step, the metrics, and the recipe; what was written before is replaced."""
        target = folder / "tensorboard"
        shutil.rmtree(target, ignore_errors=True)
        writer = self._open(str(target))
        for step, values in by_step(losses).items():
            for name, value in values.items():
                writer.add_scalar(name, value, step)
        for key, value in known_metrics(metrics).items():
            writer.add_scalar(f"metrics/{key}", value, 0)
        ui.say_once(f"--log tensorboard: tensorboard --logdir {shlex.quote(str(folder.parents[2]))}")
        writer.add_text("recipe", "    " + yaml.safe_dump(dict(recipe), sort_keys=False).replace("\n", "\n    "))
        writer.close()


class WandB:
    """A run of Weights & Biases for each run; WANDB_MODE, WANDB_ENTITY and its other variables hold as always."""

    def __init__(self) -> None:
        """Import wandb, so that a missing one is said before anything runs."""
        try:
            import wandb
        except ImportError as error:
            raise missing("wandb") from error
        self._wandb: Any = wandb

    @hookimpl
    def run_done(
        self, folder: Path, recipe: Mapping[str, Any], metrics: Mapping[str, Any], losses: Mapping[str, Any] | None
    ) -> None:
        """Log the losses step by step, the metrics as the summary and the recipe as the configuration, once."""
        steps, values = by_step(losses), known_metrics(metrics)
        name = f"{folder.name}-{digest([sorted(steps.items()), values])[:8]}"
        # wandb can't take back what it was sent
        if (marker := folder / "wandb.json").is_file() and read_json(marker) == {"id": name}:
            return
        run = self._wandb.init(
            project=PROJECT,
            id=name,
            name=folder.name,
            group=f"{recipe['method']}/{recipe['name']}",
            config=dict(recipe),
            dir=str(folder),
        )
        for step, losses_then in steps.items():
            run.log(losses_then, step=step)
        run.summary.update(values)
        run.finish()
        write_json(marker, {"id": name})


def by_step(losses: Mapping[str, Any] | None) -> dict[int, dict[str, float]]:
    """Return step → name → the mean over the slots, of the content of losses.json; names begin with `loss/`."""
    if losses is None:
        return {}
    return {
        step: {f"loss/{name}": values[at] for name, values in losses["mean"].items() if values[at] is not None}
        for at, step in enumerate(losses["steps"])
    }


def known_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return key → value of the measures that a run has."""
    return {key: value for key, value in read_values(metrics).items() if value is not None}


def missing(package: str) -> DirePlugError:
    """Return the error for a logger whose package isn't installed."""
    return DirePlugError(f"--log {package}: {package} isn't installed; get it with: pip install 'dire-plug[{package}]'")
