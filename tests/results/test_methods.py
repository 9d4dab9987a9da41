"""Methods side by side under one protocol: what may be compared, who labels, ranks by hand, the tables."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.cli import Cli
from support.small_run import made_by_kind, native, outcome, run_folders, write_recipe
from support.terminal import as_text

from dire_plug import plugins
from dire_plug.errors import DirePlugError
from dire_plug.files import read_json
from dire_plug.pipeline import FinishedRun, Request, plan_run, run_arm
from dire_plug.pipeline.work_units import plan_units
from dire_plug.recipe import read_yaml
from dire_plug.recipe.evaluate import HardLabelsSection
from dire_plug.recipe.loading import merge
from dire_plug.results.comparison import Comparison
from dire_plug.results.methods import MethodsComparison, MethodsPlan, Protocol, check_judges, plan_methods
from dire_plug.results.methods_table import draw_methods, methods_to_json, render
from dire_plug.results.statistics import find_agreement, rank
from dire_plug.store.runs import RunFolder
from dire_plug.store.units import waits_for

# Ranks.


def test_ranks_are_shared_by_equal_values() -> None:
    assert rank([70.0, 90.0, 80.0, 80.0]) == [4, 1, 2.5, 2.5]


def test_the_agreement_of_four_rankings_by_hand() -> None:
    found = find_agreement([1.0, 2.0, 3.0, 4.0], [10.0, 20.0, 40.0, 30.0])
    assert found is not None
    # of six pairs five agree: (5 − 1)/6; one exchange of neighbours: 1 − 6·2/(4·15)
    assert found.n == 4
    assert [found.tau, found.rho] == pytest.approx([2 / 3, 0.8])
    # of the 24 orders 1 + 3 have no less than five pairs, and as many are the reverse
    assert found.tau_p == pytest.approx(8 / 24)


@pytest.mark.parametrize(("first", "second"), [([1.0, 2.0], [1.0, 2.0]), ([1.0, 1.0, 1.0], [1.0, 2.0, 3.0])])
def test_two_values_or_equal_ones_have_no_agreement(first: list[float], second: list[float]) -> None:
    assert find_agreement(first, second) is None


# What is planned.


@pytest.fixture
def pair(tmp_path: Path) -> list[str]:
    """Two recipes of one method, whose synthesis and protocol differ."""
    other = {"recover": {"flags": {"iteration": 4}}, "evaluate": {"epochs": 3, "lr": 0.01}}
    return [str(write_recipe(tmp_path / "one.yaml")), str(write_recipe(tmp_path / "two.yaml", other))]


def plan(methods: list[str], *settings: str, **options: Any) -> MethodsPlan:
    return plan_methods(Request("sre2l", engine="native", settings=settings), methods, **options)


def test_every_recipe_gets_the_protocol_of_the_first_one(bare_home: Path, pair: list[str]) -> None:
    found = plan(pair)
    one, two = (plan_run(request).recipe for request in found.judged.values())
    assert one.evaluate == two.evaluate == plan_run(next(iter(found.own.values()))).recipe.evaluate
    # the images stay each one's own
    assert (one.recover.flags["iteration"], two.recover.flags["iteration"]) == (3, 4)
    assert one.squeeze.labeller == two.squeeze.labeller == one.squeeze.teacher
    assert list(found.own) == ["sre2l/one", "sre2l/two"]
    assert found.protocol.labels == "teacher"


def test_another_recipe_and_the_command_line_change_the_protocol_alone(bare_home: Path, pair: list[str]) -> None:
    found = plan(pair, "evaluate.epochs=5", "measure.nearest_k=3", protocol=pair[1])
    assert found.protocol.recipe == "sre2l/two"
    judged, own = ([plan_run(one).recipe for one in of.values()] for of in (found.judged, found.own))
    assert [one.evaluate.epochs for one in judged] == [5, 5]
    assert [one.evaluate.epochs for one in own] == [2, 3]
    assert {one.measure.nearest_k for one in (*judged, *own)} == {3}


def test_without_labels_the_class_is_the_label(bare_home: Path, pair: list[str]) -> None:
    found = plan(pair, "evaluate.lr=0.2", labels="none").protocol
    assert isinstance(found.section, HardLabelsSection)
    kept = (found.section.lr, found.section.students, found.section.epochs, found.section.source, found.labels)
    assert kept == (0.2, ("resnet-small",), 2, "saved", "none")


def test_a_protocol_of_hard_labels_needs_no_tensor_and_no_learned_rate(bare_home: Path) -> None:
    found = plan(["sre2l"], "dataset.size=32", "dataset.limit=500", "ipc=5", protocol="mtt/quick").protocol
    assert isinstance(found.section, HardLabelsSection)
    # MTT's learned rate and the loop's tensors are one method's own
    assert (found.section.lr, found.section.source) == (0.05, "saved")


def test_pixels_of_all_methods_are_read_in_one_space(bare_home: Path, tmp_path: Path) -> None:
    quick = read_yaml(plugins.load_adapter("mtt").recipes() / "quick.yaml")
    whitened = merge(quick, {"recover": {"flags": {"zca": True}}, "evaluate": {"whiten": True}})
    (tmp_path / "mtt.yaml").write_text(yaml.safe_dump(whitened))
    settings = ("dataset.size=32", "dataset.limit=500", "ipc=5")
    found = plan(["sre2l"], *settings, protocol=str(tmp_path / "mtt.yaml")).protocol
    assert isinstance(found.section, HardLabelsSection)
    assert not found.section.whiten


@pytest.mark.parametrize(
    ("methods", "settings", "options", "message"),
    [
        (["sre2l", "dm"], (), {}, "dataset.size: the default in sre2l; 32 in dm"),
        (["sre2l", "dm"], (), {}, "give all the same, such as --set dataset.size=32 --set dataset.limit=500"),
        (
            ["sre2l", "dm", "mtt", "infer", "cda"],
            (),
            {},
            "--ipc 10 --set dataset.size=32 --set dataset.limit=500; or leave methods out",
        ),
        (["sre2l"], (), {"protocol": "dm/quick"}, "32 in the protocol dm/quick"),
        (["sre2l"], (), {"protocol": "quick"}, "--protocol quick: of which method? Write METHOD/NAME"),
        (["sre2l", "cad"], (), {}, "cad: unknown method 'cad' (did you mean 'cda'?)"),
        (["sre2l", "cda"], (), {}, "cda: their own code isn't vendored; get it with: dire-plug vendor cda"),
        (["sre2l"], ("evaluate.epoch=3",), {}, "evaluate.epoch: unknown key (did you mean 'epochs'?)"),
        (["sre2l"], (), {"subsets": ["herdin"]}, "--subsets herdin: no such choice (did you mean 'herding'?)"),
        (["sre2l"], (), {"arms": ["dire", "random"]}, "real images belong to no method; name them with --subsets"),
        (["all"], (), {"recipe": "quickly"}, "--recipe quickly: no method has a recipe of this name"),
    ],
)
def test_what_cannot_be_compared_is_said(
    bare_home: Path, methods: list[str], settings: tuple[str, ...], options: dict[str, Any], message: str
) -> None:
    request = Request("sre2l", settings=settings, recipe=options.pop("recipe", "quick"))
    with pytest.raises(DirePlugError, match=re.escape(message)):
        plan_methods(request, methods, **options)


def test_a_teacher_cannot_label_in_a_protocol_of_hard_labels(bare_home: Path) -> None:
    with pytest.raises(DirePlugError, match="--labels teacher: the protocol of dm/quick trains with hard labels"):
        plan(["sre2l"], "dataset.size=32", "dataset.limit=500", protocol="dm/quick", labels="teacher")


def test_the_labels_are_a_unit_of_work_that_all_students_share(home: Path, pair: list[str]) -> None:
    found = plan(pair, arms=["dire"], subsets=["random"], with_own=False)
    units = plan_units(found.requests())
    (labeller,) = (unit for unit in units if unit.title == "squeeze labeller")
    students = [unit for unit in units if unit.stage == "evaluate"]
    assert len(students) == 3
    assert all(labeller.name in waits_for(units)[unit.name] for unit in students)


# What is run.

FIGURES = ("methods.png", "methods.svg", "methods.pdf")


def test_students_of_all_methods_have_one_teacher_and_images_are_made_once(
    cli: Cli, home: Path, pair: list[str]
) -> None:
    before = outcome(run_arm(native(Path(pair[0]), "dire")).folder.path)
    passes = made_by_kind(home)["pass"]
    line = ("compare-methods", ",".join(pair), "--engine", "native", "--arms", "dire", "--subsets", "random")
    answer = cli(*line, "--json")
    assert answer.code == 0, answer.err
    content = json.loads(answer.out)
    metrics = {one: read_json(one / "metrics.json") for one in run_folders(home)}
    assert len(metrics) == 5
    # two by their own protocols: of the first recipe the run that was there
    own = [one for one, found in metrics.items() if "labeller" not in found["networks"]]
    judged = [found for one, found in metrics.items() if one not in own]
    assert len(own) == 2
    assert before in [outcome(one) for one in own]
    assert len({found["networks"]["labeller"] for found in judged}) == 1
    # one more synthesis, of the second recipe
    assert len(made_by_kind(home)["pass"]) == 2 * len(passes)
    assert content["means"]["one"].keys() == {"dire"}
    folder = Path(content["folder"])
    assert {file.name for file in folder.iterdir()} == {"compare-methods.json", *FIGURES}
    # a judged run's own recipe gives the same run again
    recipe = next(one for one in metrics if one not in own and one.name.startswith("dire")) / "recipe.yaml"
    again = run_arm(Request("sre2l", recipe=str(recipe), arm="dire", engine="native"))
    assert again.metrics["accuracy"] in [found["accuracy"] for found in judged]
    made = made_by_kind(home)
    assert cli(*line).code == 0
    assert made_by_kind(home) == made


# What is shown.


def canned(name: str, shift: float) -> Comparison:
    """Return two seeds of three arms, whose accuracies `shift` decides."""

    def run(arm: str, seed: int, last: float) -> FinishedRun:
        values = {"coverage": 0.2, "class_coverage": 0.3, "vendi": 2.0, "class_vendi": 2.0, "similarity": 0.5}
        spaces = {space: {**values, "real": values} for space in ("T", "I")}
        networks = {"teacher": name, "independent": "1f", "labeller": "2f"}
        accuracy = {"students": {"net": {"last": [last], "best": None}}}
        metrics = {"arm": arm, "networks": networks, "accuracy": accuracy, "diversity": spaces}
        return FinishedRun(RunFolder(Path(f"/runs/{arm}-{seed}")), metrics, reused=True)

    arms = {"baseline": shift, "control": shift + 1, "dire": 60 - shift / 2}
    runs = {arm: [run(arm, seed, last + seed) for seed in range(2)] for arm, last in arms.items()}
    return Comparison(name, "quick", 10, (0, 1), "upstream", runs, {}, ("dire",))


@pytest.fixture
def comparison(bare_home: Path) -> MethodsComparison:
    protocol: Protocol = plan(["sre2l"]).protocol
    one = {"a": canned("a", 30), "b": canned("b", 40), "c": canned("c", 50)}
    own = {"a": canned("a", 30), "b": canned("b", 40), "c": canned("c", 35)}
    return MethodsComparison(one, own, None, protocol, {"b": 25})


def test_the_tables_have_both_protocols_ranks_and_their_agreement(comparison: MethodsComparison) -> None:
    lines = as_text(render(comparison)).splitlines()
    cells = [line.split() for line in lines]
    gap = next(row for row in cells if row[:4] == ["a", "dire", "−", "control"])
    assert gap[4:10] == ["+14.0", "±", "0.0", "+14.0", "±", "0.0"]
    assert ["c", "baseline", "50.5", "±", "0.7", "35.5", "±", "0.7", "20.0"] in [row[:9] for row in cells]
    # own: 30, 40, 35, one: 30, 40, 50
    assert methods_to_json(comparison)["ranks"]["own"]["baseline"] == {"a": 3, "b": 1, "c": 2}
    assert methods_to_json(comparison)["ranks"]["one"]["baseline"] == {"a": 3, "b": 2, "c": 1}
    assert ["baseline", "3", "0.33", "1.000", "0.50"] in cells
    text = " ".join(" ".join(lines).split())
    assert "dire − control is positive for 2 of 3 methods by their own protocols" in text
    assert "dire − control is positive for 1 of 3 methods under the one protocol" in text
    assert "b: makes 25 images of a class at IPC 10, so its students take 2.5 times as many steps" in text


def test_without_their_own_protocols_nothing_is_said_of_them(comparison: MethodsComparison) -> None:
    text = as_text(render(replace(comparison, own={})))
    assert "own protocol" not in text
    assert "Kendall" not in text
    assert "rank of the methods" in text
    assert "dire, one" not in text


def test_the_figure_has_a_panel_a_protocol_and_a_place_a_method(comparison: MethodsComparison) -> None:
    panels = draw_methods(replace(comparison, real=comparison.judged["a"])).axes
    assert [[label.get_text() for label in axes.get_xticklabels()] for axes in panels] == [
        ["a", "b", "c", "real images"],
        ["a", "b", "c"],
    ]


def test_runs_that_different_networks_judged_are_refused() -> None:
    one, other = canned("a", 30), canned("b", 40)
    check_judges([one, other])
    other.runs["dire"][1].metrics["networks"]["labeller"] = "3f"
    with pytest.raises(DirePlugError, match=r"were judged by different networks \(labeller\)"):
        check_judges([one, other])
