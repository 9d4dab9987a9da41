"""Read how units of work are executed: the user's config file, and what the command line changes of it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import platformdirs
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dire_plug.errors import DirePlugError, nearest
from dire_plug.files import expand_user
from dire_plug.store.runs import RERUN

Kind = Literal["inline", "local", "slurm"]
KINDS: tuple[str, ...] = get_args(Kind)
CONFIG = "config.yaml"
SHORT = {"cpus": "cpus-per-task", "memory": "mem", "gpus": "gpus-per-node", "time_limit": "time"}
"""Our names of sbatch's options; any other key is an option as sbatch spells it, such as `constraint`."""
SEVERAL_GPUS = ("prepare", "recover")
"""Stages that run upstream's code, some of which uses several GPUs."""
OURS = ("array", "dependency", "job-name", "output", "error", "open-mode", "requeue", "signal", "comment", "wrap")
"""What a submission sets itself."""


class Slurm(BaseModel):
    """The section `slurm` of the config file: the options of sbatch, and four keys of our own."""

    model_config = ConfigDict(extra="allow")

    setup: list[str] = Field(default=[], description="Shell lines before the job, such as `module load cuda`.")
    stages: dict[str, dict[str, Any]] = Field(default={}, description="Stage → options that differ there.")
    able: list[str] | None = Field(default=None, description="What the nodes can do of `--accelerate fast`.")
    signal_seconds: int = Field(default=120, ge=10, description="How long before its time limit a job is told to stop.")


class Config(BaseModel):
    """The user's config file."""

    model_config = ConfigDict(extra="forbid")

    executor: Kind = "inline"
    jobs: int | None = Field(default=None, ge=1)
    max_jobs: int | None = Field(default=None, ge=1)
    gpus_per_job: int = Field(default=1, ge=1)
    slurm: Slurm = Slurm()


@dataclass(frozen=True)
class ExecutorSettings:
    """How units of work are executed.

    Attributes:
        kind: inline, local or slurm.
        jobs: processes of `local`; None: one for each GPU, or two.
        max_jobs: jobs of one array that SLURM runs at a time; None leaves it to the cluster.
        gpus_per_job: GPUs that one job sees; more than one only helps a script that uses several.
        detach: whether the command ends when its jobs are submitted.
        sbatch: option of sbatch → value.
        stages: stage → options that differ there.
        setup: shell lines before the job.
        signal_seconds: how long before its time limit a job is told to stop.
        able: the components of `--accelerate fast` that all nodes can do; None: nobody said.
        scripts: a folder that gets plain scripts for sbatch instead of a submission.
    """

    kind: Kind = "inline"
    jobs: int | None = None
    max_jobs: int | None = None
    gpus_per_job: int = 1
    detach: bool = False
    sbatch: Mapping[str, Any] = field(default_factory=dict)
    stages: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    setup: tuple[str, ...] = ()
    signal_seconds: int = 120
    able: tuple[str, ...] | None = None
    scripts: Path | None = None

    def options(self, stage: str) -> dict[str, Any]:
        """Return the options of sbatch for the units of one stage."""
        found = {**self.sbatch, **self.stages.get(stage, {})}
        if self.gpus_per_job > 1 and stage in SEVERAL_GPUS:
            found["gpus-per-node"] = self.gpus_per_job
            found.pop("gres", None)  # it may say another number
        return found


def config_file() -> Path:
    """Return the user's config file: `DIRE_PLUG_CONFIG`, or config.yaml in the platform's config folder."""
    if chosen := os.environ.get("DIRE_PLUG_CONFIG"):
        return expand_user(chosen, where="DIRE_PLUG_CONFIG").absolute()
    return Path(platformdirs.user_config_dir("dire-plug")) / CONFIG


def read_config() -> Config:
    """Return the user's config file, or the defaults where there is none.

    Raises:
        DirePlugError: it isn't YAML, or has a key or a value that isn't known; all problems are named.
    """
    file = config_file()
    if not file.is_file():
        return Config()
    try:
        # every scalar stays text: YAML would read the time 12:00:00 as the number 43200, which sbatch takes for minutes
        content = yaml.load(file.read_text(), Loader=yaml.BaseLoader)
        return Config.model_validate(content or {})
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DirePlugError(f"{file}: cannot be read as YAML: {error}") from error
    except ValidationError as error:
        lines = [
            f"{file}: {'.'.join(map(str, one['loc']))}: {_explain(one, list(Config.model_fields))}"
            for one in error.errors()
        ]
        raise DirePlugError("\n".join(lines)) from error


def _explain(problem: Any, known: Sequence[str]) -> str:
    if problem["type"] == "extra_forbidden":
        key = str(problem["loc"][-1])
        return f"no such key{nearest(key, known)}; one of {', '.join(known)}; sbatch's options belong below slurm"
    return str(problem["msg"])


def read_settings(
    kind: str | None = None,
    *,
    jobs: int | None = None,
    max_jobs: int | None = None,
    gpus_per_job: int | None = None,
    detach: bool = False,
    slurm: Sequence[str] = (),
    scripts: Path | None = None,
    rerun: Sequence[str] = (),
) -> ExecutorSettings:
    """Return the config file's settings with what the command line changes.

    Args:
        kind: inline, local or slurm; None takes the file's.
        slurm: `KEY=VALUE`: options of sbatch; `STAGE.KEY=VALUE` for the units of one stage.
        scripts: see `ExecutorSettings`.
        rerun: the stages that are made again, which only one process can do.

    Raises:
        DirePlugError: the config file is faulty, or options don't go together.
    """
    config = read_config()
    chosen = _check_kind(kind or config.executor)
    given = {"--jobs": jobs, "--max-jobs": max_jobs, "--detach": detach, "--slurm": slurm, "--write-scripts": scripts}
    fits = {"local": ("--jobs",), "slurm": ("--max-jobs", "--detach", "--slurm", "--write-scripts")}.get(chosen, ())
    for option, value in given.items():
        if value and option not in fits:
            needs = "local" if option == "--jobs" else "slurm"
            shown = "" if value is True or option == "--slurm" else f" {value}"
            raise DirePlugError(f"{option}{shown} needs --executor {needs}; this is {chosen}")
    if gpus_per_job is not None and chosen == "inline":
        raise DirePlugError("--gpus-per-job needs --executor local or slurm; inline is one process, as it is")
    if rerun and chosen != "inline":
        raise DirePlugError(
            f"--rerun and --executor {chosen} can't be combined: each process would make again what "
            "another one has just made again; give --rerun with --executor inline"
        )
    options = {**(config.slurm.model_extra or {})}
    able = config.slurm.able
    stages = {stage: dict(own) for stage, own in config.slurm.stages.items()}
    for text in slurm:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise DirePlugError(f"--slurm {text}: write KEY=VALUE, such as --slurm partition=gpu")
        if key == "able":
            able = [name.strip() for name in value.split(",") if name.strip()]
            continue
        stage, dot, own = key.partition(".")
        (stages.setdefault(stage, {}) if dot else options)[own if dot else key] = value
    for stage in stages:
        if stage not in RERUN:
            raise DirePlugError(f"slurm: no such stage '{stage}'{nearest(stage, RERUN)}; one of {', '.join(RERUN)}")
    return ExecutorSettings(
        kind=chosen,
        jobs=jobs or config.jobs,
        max_jobs=max_jobs or config.max_jobs,
        gpus_per_job=gpus_per_job or config.gpus_per_job,
        detach=detach,
        sbatch=_spell(options),
        stages={stage: _spell(own) for stage, own in stages.items()},
        setup=tuple(config.slurm.setup),
        signal_seconds=config.slurm.signal_seconds,
        able=None if able is None else _read_able(able),
        scripts=scripts,
    )


def _check_kind(kind: str) -> Kind:
    if kind not in KINDS:
        raise DirePlugError(f"executor '{kind}': no such executor{nearest(kind, KINDS)}; one of {', '.join(KINDS)}")
    return kind  # type: ignore[return-value]


def _read_able(names: Sequence[str]) -> tuple[str, ...]:
    """Return the components of `--accelerate fast` among which are those that any machine can do.

    Raises:
        DirePlugError: there is no such component.
    """
    from dire_plug.acceleration import COMPONENTS, OF_MACHINES  # imports torch

    for name in names:
        if name not in OF_MACHINES:
            hint = nearest(name, OF_MACHINES)
            raise DirePlugError(f"slurm: able: no such ability '{name}'{hint}; some of {', '.join(OF_MACHINES)}")
    return tuple(name for name in COMPONENTS if name in names or name not in OF_MACHINES)


def _spell(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options as sbatch spells them.

    Raises:
        DirePlugError: one that a submission sets itself.
    """
    spelled = {SHORT.get(key, key).replace("_", "-"): value for key, value in options.items()}
    if taken := sorted(spelled.keys() & set(OURS)):
        raise DirePlugError(f"slurm: {', '.join(taken)} is set by dire-plug itself; leave it out")
    return spelled
