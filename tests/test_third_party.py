"""A third-party package: known by its entry points, active only where it is named, and able to do all that ours do."""

from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file
from support.cli import Cli, install
from support.small_run import only_run, outcome, read_rows, run_folders
from support.third_party_plugin import ThirdParty, offer, write

from dire_plug.files import read_json
from dire_plug.plugins import code_of, read_once


def test_what_it_offers_is_listed_beside_our_own(cli: Cli, third_party: ThirdParty, bare_home: Path) -> None:
    plugins = read_rows(cli("list", "plugins").out)
    assert ["method", "toy-net", "toy_net_plugin", "toy_net_plugin.method:Toy"] in plugins
    assert ["regularizer", "spread", "toy_net_plugin", "toy_net_plugin.term:Spread"] in plugins
    methods = read_rows(cli("list", "methods").out)
    assert ["toy-net", "The toy", str(third_party.repository), third_party.commit[:12], "none", "synth"] in methods
    assert "toy-net/small" in [cells[0] for cells in read_rows(cli("list", "recipes").out)]
    assert ["toy-net", "no", "dire-plug vendor toy-net"] in read_rows(cli("doctor").out)


def test_its_code_is_read_once_while_runs_are_planned_and_then_anew(third_party: ThirdParty) -> None:
    def code() -> tuple[str, str]:
        return code_of("regularizers", "spread"), code_of("methods", "toy-net")

    before = code()
    with read_once():
        planned = code()
        with (third_party.site / "toy_net_plugin" / "term.py").open("a") as file:
            file.write("# another formula\n")
        assert code() == planned == before
    # whoever makes what was planned sees the edit
    assert set(code()).isdisjoint(before)


def test_installed_but_not_named_it_changes_no_bit(
    cli: Cli, third_party: ThirdParty, home: Path, recipe: Path, baseline: Path
) -> None:
    assert cli("run", "sre2l", "--recipe", recipe, "--engine", "native").code == 0
    assert only_run(home).name == baseline.name
    assert outcome(only_run(home)) == outcome(baseline)


def test_named_as_an_arm_its_term_changes_the_images(
    cli: Cli, third_party: ThirdParty, home: Path, recipe: Path
) -> None:
    line = ("run", "sre2l", "--recipe", recipe, "--engine", "native", "--arm")
    for arm in ("control", "spread"):
        assert cli(*line, arm).code == 0
    assert cli(*line, "spread", "--set", "regularizers.spread.weight=0").code == 0
    images = {}
    for folder in run_folders(home):
        arms = yaml.safe_load((folder / "recipe.yaml").read_text()).get("arms", {"": {"regularizers": {}}})
        settings = next(iter(arms.values()))["regularizers"]
        images[settings.get("spread", {}).get("weight")] = (folder / "images.safetensors").read_bytes()
    assert len(images) == 3
    assert images[0.0] == images[None]
    assert images[1.0] != images[None]


def test_its_settings_are_checked_by_its_own_model(cli: Cli, third_party: ThirdParty, home: Path, recipe: Path) -> None:
    answer = cli("run", "sre2l", "--recipe", recipe, "--arm", "spread", "--set", "regularizers.spread.wieght=2")
    assert answer.code == 2
    assert "regularizers.spread.wieght: unknown key (did you mean 'weight'?) (from --set)" in answer.err
    assert run_folders(home) == []


def test_without_the_package_its_name_is_unknown(cli: Cli, home: Path, recipe: Path) -> None:
    answer = cli("run", "sre2l", "--recipe", recipe, "--arm", "spread")
    assert answer.code == 2
    assert answer.err.startswith("error: no arm 'spread' (")
    assert "  this recipe has: baseline, control, " in answer.err


def test_a_name_that_two_packages_offer_is_an_error_that_names_both(
    cli: Cli, third_party: ThirdParty, tmp_path: Path, home: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(tmp_path / "site", "rival", "[dire_plug.regularizers]\nspread = rival:Other\n")
    install(tmp_path / "site", monkeypatch)
    for line in (("run", "sre2l", "--recipe", recipe), ("list", "plugins")):
        answer = cli(*line)
        assert answer.code == 2
        assert "the name 'spread' is offered twice among regularizers: by " in answer.err
        assert "rival:Other" in answer.err
        assert "toy_net_plugin.term:Spread" in answer.err
        assert "uninstall one of the two packages" in answer.err


def test_a_package_that_cannot_be_imported_is_named_and_harms_nobody_else(
    cli: Cli, tmp_path: Path, home: Path, recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "site" / "faulty.py", "import a_module_that_is_not_there\n")
    offer(tmp_path / "site", "faulty", "[dire_plug.regularizers]\nfaulty = faulty:Term\n")
    install(tmp_path / "site", monkeypatch)
    line = ("run", "sre2l", "--recipe", recipe, "--engine", "native")
    answer = cli(*line, "--arm", "faulty")
    assert answer.code == 1
    assert "plugin 'faulty' (faulty:Term) cannot be imported: ModuleNotFoundError" in answer.err
    assert cli(*line).code == 0


def test_a_term_that_is_nan_stops_the_run_and_keeps_finished_passes(
    cli: Cli, third_party: ThirdParty, home: Path, recipe: Path
) -> None:
    line = ("run", "sre2l", "--recipe", recipe, "--engine", "native", "--arm", "spread")
    one_a_pass = ("--set", "arms.dire.overrides.recover.plan.per_class=1")
    answer = cli(*line, *one_a_pass, "--set", "regularizers.spread.broken_from=1")
    assert answer.code == 1
    assert answer.err.endswith("error: plugin 'spread': its term is nan in Slot(pass_index=1, batch_index=0)\n")
    folder = only_run(home)
    status = read_json(folder / "status.json")
    assert (status["state"], status["stage"]) == ("failed", "recover")
    entries = [file.parent for file in home.glob("store/pass/*/entry.json")]
    (kept,) = (entry for entry in entries if "spread" in read_json(entry / "entry.json")["decided_by"].get("terms", {}))
    assert read_json(kept / "entry.json")["decided_by"]["pass"] == 0
    files = sorted(path.name for path in kept.iterdir() if path.is_file())
    assert files == ["entry.json", "losses-000.json", "pass-000-batch-0000.safetensors", "pass-000.safetensors"]


def test_its_method_needs_its_code_and_says_how_to_get_it(cli: Cli, third_party: ThirdParty, bare_home: Path) -> None:
    line = ("run", "toy-net", "--recipe", "small")
    refused = cli(*line)
    assert refused.code == 2
    assert "The toy's own code is needed and isn't vendored; get it with: dire-plug vendor toy-net" in refused.err
    assert cli(*line, "--dry-run").code == 0
    native = cli(*line, "--engine", "native")
    assert (native.code, native.err) == (2, "error: toy-net: no native engine for the script 'synth'\n")


@pytest.mark.slow
def test_its_method_runs_from_vendoring_to_metrics_with_its_own_script(
    cli: Cli, third_party: ThirdParty, bare_home: Path
) -> None:
    vendored = cli("vendor", "toy-net")
    assert vendored.code == 0, vendored.err
    tree = Path(vendored.out.removeprefix("toy-net: ").strip())
    assert tree.parent == bare_home / "third_party"
    line = ("run", "toy-net", "--recipe", "small", "--arm")
    for arm in ("baseline", "spread"):
        answer = cli(*line, arm)
        assert answer.code == 0, answer.err
    plain, spread = run_folders(bare_home)
    provenance = read_json(plain / "provenance.json")
    assert (provenance["engine"], provenance["commit"]) == ("upstream", third_party.commit)
    expected = sorted(f"{label}-{image}.png" for label in range(10) for image in range(3))
    assert sorted(path.name for path in (plain / "images").iterdir()) == expected
    assert len(read_json(plain / "metrics.json")["accuracy"]["students"]["convnet-small"]["last"]) == 1
    first, second = (load_file(folder / "images.safetensors") for folder in (plain, spread))
    assert first["labels"].tolist() == second["labels"].tolist() == [label for label in range(10) for _ in range(3)]
    assert not first["images"].equal(second["images"])
    assert "it was finished before" in cli(*line, "spread").out
