"""The executor's settings: the user's config file, and what the command line changes."""

from pathlib import Path

import pytest

from dire_plug.errors import DirePlugError
from dire_plug.executors.settings import ExecutorSettings, read_settings

FILE = """
executor: slurm
max_jobs: 8
slurm:
  partition: gpu
  time: 12:00:00
  cpus: 8
  memory: 64G
  constraint: a100
  setup: [module load cuda]
  stages:
    evaluate: {time: 2:00:00}
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's config file; it doesn't exist yet."""
    file = tmp_path / "config.yaml"
    monkeypatch.setenv("DIRE_PLUG_CONFIG", str(file))
    return file


def test_without_a_file_everything_runs_inline(config: Path) -> None:
    assert read_settings().kind == "inline"


def test_the_file_decides_what_the_command_line_leaves_out(config: Path) -> None:
    config.write_text(FILE)
    found = read_settings(slurm=["constraint=h100", "recover.time=3-0"])
    assert (found.kind, found.max_jobs, found.setup) == ("slurm", 8, ("module load cuda",))
    shared = {"partition": "gpu", "time": "12:00:00", "cpus-per-task": "8", "mem": "64G", "constraint": "h100"}
    assert found.options("squeeze") == shared
    assert found.options("evaluate") == shared | {"time": "2:00:00"}
    assert found.options("recover") == shared | {"time": "3-0"}


def test_the_command_line_chooses_another_executor_than_the_file(config: Path) -> None:
    config.write_text(FILE)
    assert read_settings("local", jobs=3) == ExecutorSettings(
        "local", jobs=3, max_jobs=8, sbatch=read_settings().sbatch, stages=read_settings().stages,
        setup=("module load cuda",),
    )  # fmt: skip


def test_what_nodes_can_do_is_named_in_the_file_or_the_command(config: Path) -> None:
    assert read_settings("slurm").able is None
    config.write_text("slurm: {able: [compile, bf16], partition: gpu}")
    assert read_settings("slurm").able == ("bf16", "compile", "one-pass statistics", "frozen")
    assert read_settings("slurm", slurm=["able=tf32"]).able == ("tf32", "one-pass statistics", "frozen")
    assert read_settings("slurm", slurm=["able="]).options("recover") == {"partition": "gpu"}


def test_several_gpus_a_job_are_asked_of_sbatch(config: Path) -> None:
    assert read_settings("slurm", gpus_per_job=2).options("recover") == {"gpus-per-node": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("exekutor: slurm", "exekutor: no such key (did you mean 'executor'?)"),
        ("executor: slrum", "executor: Input should be 'inline', 'local' or 'slurm'"),
        ("jobs: 0", "jobs: Input should be greater than or equal to 1"),
        ("slurm: {array: 0-3}", "slurm: array is set by dire-plug itself"),
        ("slurm: {stages: {evalute: {time: 1}}}", "no such stage 'evalute' (did you mean 'evaluate'?)"),
        ("executor: [", "cannot be read as YAML"),
    ],
)
def test_a_faulty_file_is_named_with_its_problem(config: Path, text: str, message: str) -> None:
    config.write_text(text)
    with pytest.raises(DirePlugError) as error:
        read_settings()
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "inline", "jobs": 2}, "--jobs 2 needs --executor local; this is inline"),
        ({"kind": "local", "detach": True}, "--detach needs --executor slurm; this is local"),
        ({"kind": "local", "slurm": ["a=b"]}, "--slurm needs --executor slurm"),
        ({"kind": "slurm", "slurm": ["partition"]}, "--slurm partition: write KEY=VALUE"),
        ({"kind": "slurm", "slurm": ["able=bf32"]}, "able: no such ability 'bf32' (did you mean 'tf32'?)"),
        ({"kind": "inline", "gpus_per_job": 2}, "--gpus-per-job needs --executor local or slurm"),
        ({"kind": "local", "rerun": ["squeeze"]}, "--rerun and --executor local can't be combined"),
    ],
)
def test_options_that_do_not_go_together_are_refused(config: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(DirePlugError) as error:
        read_settings(**options)  # type: ignore[arg-type]
    assert message in str(error.value)
