"""The command line as a user sees it: what is printed, exit codes, what a second command finds."""

import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support.cli import Cli
from support.paths import ROOT
from support.small_run import forget, only_run, outcome, read_rows, run_folders, when_made

from dire_plug.cli import COMMANDS, GROUPS
from dire_plug.errors import PluginError
from dire_plug.files import read_json
from dire_plug.methods.sre2l import SRe2L
from dire_plug.pipeline import run as pipeline
from dire_plug.recipe import recipe_names

QUICKLY = """
import sys
from dire_plug.cli import main
for line in {lines!r}:
    try:
        main(line.split())
    except SystemExit as end:
        assert end.code == 0, line
    print(line, [name for name in ("torch", "torchvision", "sklearn", "scipy", "matplotlib") if name in sys.modules])
"""


def read_dry_run(text: str) -> dict[str, list[str]]:
    """Return the table of a dry run: key → value, origin and source."""
    return {cells[0]: cells[1:] for cells in read_rows(text) if len(cells) > 2}


# Help and errors.


def test_what_only_tells_something_answers_without_importing_torch() -> None:
    lines = ["--help", "--version", *(f"{name} --help" for name in COMMANDS)]
    lines += [f"list {what}" for what in ("methods", "recipes", "plugins", "runs")]
    done = subprocess.run([sys.executable, "-c", QUICKLY.format(lines=lines)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line for line in done.stdout.splitlines() if line in {f"{line} []" for line in lines}] == [
        f"{line} []" for line in lines
    ]


@pytest.mark.parametrize("module", ["dire_plug", "dire_plug.cli"])
def test_the_command_line_runs_as_a_module(module: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, "list", "plugins"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "dire_plug.methods.sre2l:SRe2L" in done.stdout
    refused = subprocess.run([sys.executable, "-m", module, "show", "nothing"], capture_output=True, text=True)
    assert refused.returncode == 2
    assert refused.stderr.startswith("error: ")


@pytest.mark.skipif(shutil.which("make") is None, reason="make isn't installed")
def test_make_run_ends_with_how_to_call_the_program() -> None:
    root = ROOT
    # `make test` runs this test, and a make inside a make says where it enters and leaves
    command = ["make", "--no-print-directory", "--dry-run", "run"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert ". .venv/bin/activate" in done.stdout.splitlines()[-2]
    assert ".venv/bin/dire-plug vendor sre2l" in done.stdout.splitlines()[-1]
    assert ". .venv/bin/activate" in (root / "README.md").read_text()


def test_help_lists_every_command_in_the_order_of_a_users_way(cli: Cli) -> None:
    answer = cli("--help")
    assert answer.code == 0
    listed = answer.out.partition(f"{next(iter(GROUPS))}:\n")[2]
    assert re.findall(r"^  (\S+) ", listed, re.MULTILINE) == list(COMMANDS)
    assert [line[:-1] for line in listed.splitlines() if re.match(r"\w.*:$", line)] == list(GROUPS)[1:]
    assert "dire-plug run sre2l --dire" in answer.out


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("rnu sre2l", "unknown command 'rnu' (did you mean 'run'?)"),
        ("run", "Missing argument 'METHOD'"),
        ("run sre2l --ipc 0", "Invalid value for '--ipc': 0 is not in the range x>=1."),
        ("run sre2l --seed minus", "'minus' is not a valid integer range."),
        ("run sre2l --engine cuda", "'cuda' is not one of 'auto', 'upstream', 'native'."),
        ("run sre2l --drie", "--drie"),
        ("list teachers", "'teachers' is not one of 'methods', 'recipes', 'plugins', 'runs', 'artefacts'."),
        (
            "compare sre2l --arms ,",
            "--arms: names no arm; name some, separated by commas, such as baseline,control,dire,random",
        ),
        ("compare sre2l --seeds 0", "0 is not in the range x>=1."),
    ],
)
def test_a_faulty_command_line_ends_with_2_and_says_what_is_wrong(
    cli: Cli, bare_home: Path, line: str, words: str
) -> None:
    answer = cli(*line.split())
    assert (answer.code, answer.out) == (2, "")
    assert words in answer.err


@pytest.mark.parametrize(
    ("line", "one", "other"),
    [
        ("run sre2l --dire --arm baseline", "--dire", "--arm baseline"),
        ("run sre2l --arm control --dire", "--dire", "--arm control"),
        ("run sre2l --arm baseline --regularizer dpp", "--regularizer dpp", "--arm baseline"),
        (
            "run sre2l --regularizer dpp=1 --set regularizers.dpp.weight=2",
            "--regularizer dpp with the weight 1",
            "--set regularizers.dpp.weight=2",
        ),
        ("run sre2l --ipc 5 --set ipc=10", "--ipc 5", "--set ipc=10"),
        ("compare sre2l --ipc 5 --set ipc=10", "--ipc 5", "--set ipc=10"),
        ("ablate sre2l --ipc 5 --set ipc=10", "--ipc 5", "--set ipc=10"),
        ("tune sre2l --ipc 5 --set ipc=10", "--ipc 5", "--set ipc=10"),
        ("time sre2l --ipc 5 --set ipc=10", "--ipc 5", "--set ipc=10"),
        (
            "measure x --nearest-k 3 --set measure.nearest_k=5",
            "--nearest-k 3",
            "--set measure.nearest_k=5",
        ),
        (
            "measure x --teacher a.pt --set squeeze.teacher.checkpoint=b.pt",
            "--teacher a.pt",
            "--set squeeze.teacher.checkpoint=b.pt",
        ),
        ("evaluate x --epochs 3 --set evaluate.epochs=4", "--epochs 3", "--set evaluate.epochs=4"),
        ("evaluate x --per-set 3 --set evaluate.per_synthesis=4", "--per-set 3", "--set evaluate.per_synthesis=4"),
        ("evaluate x --student a --set evaluate.students=[b]", "--student a", "--set evaluate.students=[b]"),
        ("rank x --per-set 3 --set evaluate.per_synthesis=4", "--per-set 3", "--set evaluate.per_synthesis=4"),
        ("reproduce table-4 --scale smoke --status x.md", "--status", "--scale smoke"),
    ],
)
def test_options_that_contradict_each_other_are_refused_with_both(
    cli: Cli, bare_home: Path, line: str, one: str, other: str
) -> None:
    answer = cli(*line.split())
    assert (answer.code, answer.out) == (2, "")
    assert answer.err == f"error: {one} and {other} contradict each other; leave one of them out\n"
    assert not bare_home.exists()


@pytest.mark.parametrize("line", ["--dire --arm dire", "--dire", "--arm dire", "--arm dire --ipc 5 --set ipc=5"])
def test_options_that_say_the_same_are_one(cli: Cli, bare_home: Path, line: str) -> None:
    answer = cli("run", "sre2l", *line.split(), "--dry-run")
    assert answer.code == 0, answer.err
    assert answer.out.startswith("SRe2L: recipe quick, arm dire, seed 0\n")


# Dry runs.


@pytest.mark.parametrize("arm", ["baseline", "control", "dire", "random"])
@pytest.mark.parametrize("name", recipe_names(SRe2L().recipes()))
def test_a_dry_run_of_every_recipe_needs_neither_data_nor_upstreams_code(
    cli: Cli, bare_home: Path, name: str, arm: str
) -> None:
    answer = cli("run", "sre2l", "--recipe", name, "--arm", arm, "--dry-run")
    assert answer.code == 0, answer.err
    assert answer.out.startswith(f"SRe2L: recipe {name}, arm {arm}, seed 0\n")
    assert ("regularizers.dire.r_e" in answer.out) is (arm == "dire")
    assert ("plan: real images are drawn" in answer.out) is (arm == "random")
    told = "python 'SRe2L/" in answer.out or "python SRe2L/" in answer.out
    assert told is ("\nengine: upstream" in answer.out)
    assert ("\nengine: none" in answer.out) is (arm == "random")
    assert not bare_home.exists()


def test_a_dry_run_says_that_upstreams_code_is_missing(cli: Cli, bare_home: Path) -> None:
    answer = cli("run", "sre2l", "--recipe", "cifar-100", "--dry-run")
    missing = "SRe2L's own code is needed and isn't vendored; get it with: dire-plug vendor sre2l"
    assert answer.out.splitlines()[1] == f"engine: upstream; {missing}"
    refused = cli("run", "sre2l", "--recipe", "cifar-100")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err == f"error: recipe 'cifar-100': {missing}\n"


def test_a_dry_run_shows_each_value_with_its_origin_and_the_plan(cli: Cli, bare_home: Path) -> None:
    answer = cli("run", "sre2l", "--dire", "--ipc", "20", "--set", "evaluate.epochs=7", "--dry-run")
    rows = read_dry_run(answer.out)
    assert rows["ipc"][:2] == ["20", "--ipc"]
    assert rows["evaluate.epochs"][:2] == ["7", "--set"]
    assert rows["recover.plan.per_class"][0] == "10"
    assert rows["recover.plan.per_class"][1].startswith("arm dire")
    assert rows["measure.nearest_k"][:2] == ["5", "default"]
    assert rows["regularizers.dire.r_e"][0] == "0.05"
    assert "plan: 2 passes × 1 batch × 300 steps" in answer.out


def test_a_preset_changes_the_term_and_nothing_else(cli: Cli, bare_home: Path) -> None:
    plain = read_dry_run(cli("run", "sre2l", "--dire", "--dry-run").out)
    preset = read_dry_run(cli("run", "sre2l", "--dire", "--dry-run", "--preset", "released").out)
    changed = {key: preset[key][0] for key in preset if preset[key][0] != plain[key][0]}
    weights = {"multiplier": "0.1", "r_e": "0.01"}
    assert changed == {f"regularizers.dire.{key}": value for key, value in weights.items()}
    origin = " ".join(preset["regularizers.dire.multiplier"][1:])
    assert "preset released" in origin
    assert "published: the DiRe release" in origin


def test_compare_dry_shows_every_arm(cli: Cli, bare_home: Path) -> None:
    answer = cli("compare", "sre2l", "--dry-run", "--arms", "control,dire")
    heads = [line for line in answer.out.splitlines() if line.startswith("SRe2L: ")]
    assert heads == ["SRe2L: recipe quick, arm control, seed 0", "SRe2L: recipe quick, arm dire, seed 0"]


# Runs.


def test_a_run_prints_its_numbers_its_folder_and_what_to_do_next(cli: Cli, home: Path, recipe: Path) -> None:
    answer = cli("run", "sre2l", "--dire", "--recipe", recipe)
    assert answer.code == 0, answer.err
    folder = only_run(home)
    metrics = read_json(folder / "metrics.json")
    last = metrics["accuracy"]["students"]["resnet-small"]["last"][0]
    assert ["resnet-small", f"{last:.1f}", f"{last:.1f}"] in read_rows(answer.out)
    assert f"{metrics['diversity']['I']['similarity']:.3f}" in answer.out
    assert "dire, seed 0, IPC 2, engine native" in answer.out
    assert f"\nrun folder: {folder}\n" in answer.out
    assert f"next:       dire-plug compare sre2l --recipe {recipe}\n" in answer.out
    assert f"dire-plug show {folder.name}\n" in answer.out
    assert "the native engine runs, which is the same mathematics; `dire-plug vendor sre2l`" in answer.err


def test_a_dry_run_of_an_arm_begins_with_what_differs_from_baseline(cli: Cli, bare_home: Path) -> None:
    answer = cli("run", "sre2l", "--dire", "--engine", "native", "--dry-run")
    differs, _, _ = answer.out.partition("\nrecipe\n")
    assert "what differs from baseline" in differs
    rows = {row[0]: row[1:] for row in read_rows(differs)}
    assert rows["recover.start"] == ["noise", "real"]
    assert "recover.flags.lr" not in rows
    assert "what differs" not in cli("run", "sre2l", "--engine", "native", "--dry-run").out


def test_what_to_do_next_works_as_it_is_printed(cli: Cli, home: Path, recipe: Path, tmp_path: Path) -> None:
    own = ("--set", "evaluate.epochs=1", "--engine", "native", "--real", "digits", "--out", tmp_path / "my runs")
    answer = cli("run", "sre2l", "--recipe", recipe, "--arm", "herding", "--seed", 3, *own)
    assert answer.code == 0, answer.err
    (compare, show) = re.findall(r"^(?:next:)? +dire-plug ((?:compare|show) .*)$", answer.out, re.MULTILINE)
    planned = json.loads(cli(*shlex.split(compare), "--dry-run", "--json").out)["arms"]
    assert list(planned) == ["baseline", "control", "herding"]
    assert {(one["seed"], one["values"]["evaluate.epochs"]["value"]) for one in planned.values()} == {(3, 1)}
    assert cli(*shlex.split(show)).code == 0


def test_the_same_command_finds_its_finished_run_again(cli: Cli, finished_home: Path, recipe: Path) -> None:
    before, given = when_made(finished_home), outcome(only_run(finished_home))
    provenance = (only_run(finished_home) / "provenance.json").read_bytes()
    forget()
    answer = cli("run", "sre2l", "--recipe", recipe, "--engine", "native")
    assert answer.code == 0
    assert "it was finished before; nothing was run" in answer.out
    assert "took" not in answer.out
    assert when_made(finished_home) == before
    assert outcome(only_run(finished_home)) == given
    assert (only_run(finished_home) / "provenance.json").read_bytes() == provenance


def test_out_moves_run_folders_and_nothing_else(cli: Cli, home: Path, recipe: Path, tmp_path: Path) -> None:
    answer = cli("run", "sre2l", "--recipe", recipe, "--arm", "random", "--out", tmp_path / "elsewhere")
    assert answer.code == 0, answer.err
    (status,) = (tmp_path / "elsewhere" / "sre2l" / "tiny").glob("random-0-*/status.json")
    assert f"run folder: {status.parent}" in answer.out
    assert run_folders(home) == []
    listed = cli("list", "runs", "--runs", tmp_path / "elsewhere")
    assert [f"sre2l/tiny/{status.parent.name}", "finished", "2", "none"] in [
        cells[:4] for cells in read_rows(listed.out)
    ]
    assert cli("show", "random-0", "--runs", tmp_path / "elsewhere").code == 0


def test_an_interrupted_run_ends_with_130_and_goes_on(
    cli: Cli, home: Path, recipe: Path, baseline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*given: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "evaluate_arm", interrupt)
        answer = cli("run", "sre2l", "--recipe", recipe, "--engine", "native")
    assert answer.code == 130
    assert answer.err.endswith("interrupted; finished stages are kept, and the same command resumes\n")
    assert ["interrupted (evaluate)"] in [cells[1:2] for cells in read_rows(cli("list", "runs").out)]
    assert cli("run", "sre2l", "--recipe", recipe, "--engine", "native").code == 0
    assert outcome(only_run(home)) == outcome(baseline)


def test_compare_runs_what_is_missing_and_shows_every_arm(cli: Cli, home: Path, recipe: Path) -> None:
    line = ("compare", "sre2l", "--recipe", recipe, "--engine", "native", "--seeds", "2")
    answer = cli(*line)
    assert answer.code == 0, answer.err
    assert len(run_folders(home)) == 8
    for arm in ("baseline", "control", "dire", "random", "real reference", "dire − control"):
        assert arm in [cells[0] for cells in read_rows(answer.out)], arm
    for note in (
        "mean ± standard deviation over 2 syntheses",
        "n = 2: below 5 pairs a difference says little; take more --seeds",
        "random: as many real training images under the same protocol",
    ):
        assert note in answer.out
    stored = Path(answer.out.partition("stored in: ")[2].splitlines()[0])
    assert f"\nreport:    dire-plug report {stored.parent.name}\n" in answer.out
    content = json.loads(stored.read_text())
    assert content["seeds"] == [0, 1]
    assert [run for arm in content["arms"].values() for run in arm["runs"]] == [
        f"{folder.name}"
        for arm in ("baseline", "control", "dire", "random")
        for folder in run_folders(home)
        if folder.name.startswith(arm)
    ]
    again = cli(*line)
    assert again.out.partition("took")[0] == answer.out.partition("took")[0]
    assert len(run_folders(home)) == 8


# list, show, doctor.


def test_list_knows_methods_recipes_plugins_and_runs(cli: Cli, bare_home: Path, finished: Path, baseline: Path) -> None:
    methods = read_rows(cli("list", "methods").out)
    assert ["sre2l", "SRe2L", "VILA-Lab/SRe2L", "8d00cba364bf", "none", "cifar, tiny, imagenet"] in methods
    recipes = {cells[0]: cells[1:] for cells in read_rows(cli("list", "recipes").out)}
    for name in recipe_names(SRe2L().recipes()):
        assert recipes[f"sre2l/{name}"][-1].endswith(f"sre2l/{name}.yaml")
    plugins = read_rows(cli("list", "plugins").out)
    assert ["regularizer", "dire", "dire-plug", "dire_plug.regularizers.dire:DiRe"] in plugins
    assert "verify-probe" not in [name for cells in plugins for name in cells]
    assert "finished" not in cli("list", "runs").out
    runs = read_rows(cli("list", "runs", "--runs", finished / "runs").out)
    assert [f"sre2l/tiny/{baseline.name}", "finished"] in [cells[:2] for cells in runs]


def test_a_run_is_shown_by_a_part_of_its_name_or_its_path(cli: Cli, finished: Path, baseline: Path) -> None:
    for name in (baseline.name, baseline.name[-8:], "tiny/base", baseline):
        answer = cli("show", name, "--runs", finished / "runs")
        assert answer.code == 0, name
        assert answer.out.startswith(f"{baseline}: finished\n")
    assert ["engine", "native"] in read_rows(answer.out)
    assert f"  {baseline / 'recipe.yaml'}\n" in answer.out
    assert "torchvision" in answer.out


def test_an_ambiguous_name_lists_runs_and_an_unknown_one_where_to_look(
    cli: Cli, finished_home: Path, baseline: Path
) -> None:
    shutil.copytree(only_run(finished_home), only_run(finished_home).with_name("baseline-1-00000000"))
    several = cli("show", "baseline")
    assert several.code == 2
    names = f"sre2l/tiny/{baseline.name}, sre2l/tiny/baseline-1-00000000"
    assert several.err == f"error: 'baseline' names 2 runs below {finished_home / 'runs'}: {names}\n"
    none = cli("show", "dire-7")
    assert none.code == 2
    assert none.err == f"error: 'dire-7' names 0 runs below {finished_home / 'runs'}; see `dire-plug list runs`\n"


def test_a_failed_run_is_shown_with_its_error(
    cli: Cli, home: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: object) -> None:
        raise PluginError("plugin 'x': it broke")

    monkeypatch.setattr(pipeline, "measure", fail)
    assert cli("run", "sre2l", "--recipe", recipe, "--engine", "native").code == 1
    answer = cli("show", "baseline-0")
    assert answer.code == 0
    assert answer.out.startswith(f"{only_run(home)}: failed\nit ended with: plugin 'x': it broke\n")


def test_doctor_works_without_a_network_and_with_an_empty_home(
    cli: Cli, bare_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("doctor reached for the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    (tmp_path / "user").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    (tmp_path / "no-data").mkdir()
    answer = cli("doctor", "--data-root", tmp_path / "no-data")
    assert answer.code == 0, answer.err
    rows = read_rows(answer.out)
    assert ["sre2l", "no", "dire-plug vendor sre2l"] in rows
    assert ["home", str(bare_home)] in rows
    assert {("digits", "yes"), ("cifar-100", "no")} <= {tuple(cells[:2]) for cells in rows}
    assert list((tmp_path / "user").iterdir()) == []
    assert not bare_home.exists()
