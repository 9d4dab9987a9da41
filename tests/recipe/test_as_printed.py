"""The preset `as-printed`: the arm `dire` of any recipe as Algorithm 1 and Equations 1–5 have it, with its sources."""

from collections import Counter
from typing import Any

import pytest

from dire_plug import plugins
from dire_plug.errors import DirePlugError
from dire_plug.pipeline import Request, plan_run
from dire_plug.pipeline.request import count_classes
from dire_plug.recipe import AS_PRINTED, Resolved, as_file, preset_names, read_yaml, recipe_names, resolve
from dire_plug.types import Slot

BUILT_IN = [name for name in plugins.known("methods") if plugins.is_built_in("methods", name)]
RECIPES = [(method, recipe) for method in BUILT_IN for recipe in recipe_names(plugins.load_adapter(method).recipes())]


def read(method: str, recipe: str) -> dict[str, Any]:
    return read_yaml(plugins.load_adapter(method).recipes() / f"{recipe}.yaml")


def resolved(
    raw: dict[str, Any], *, arm: str = "dire", ipc: int = 50, preset: str | None = AS_PRINTED, settings: Any = ()
) -> Resolved:
    adapter = plugins.load_adapter(raw["method"])
    return resolve(raw, arm=arm, ipc=ipc, preset=preset, settings=settings, adapter=adapter)


@pytest.mark.parametrize(("method", "recipe"), RECIPES, ids="/".join)
def test_every_recipe_has_it_with_whole_classes_in_a_batch(method: str, recipe: str) -> None:
    raw, adapter = read(method, recipe), plugins.load_adapter(method)
    ipcs = [int(ipc) for ipc in raw.get("by_ipc", {})] or [raw["ipc"]]
    for ipc in {min(ipcs), max(ipcs)}:
        found = resolved(raw, ipc=ipc)
        assert (found.regularizers["dire"]["variant"], found.regularizers["dire"]["multiplier"]) == ("paper", 1.0)
        assert found.recipe.recover.start == raw["recover"]["start"]
        plan: Any = adapter.plan(found.recipe.recover, classes=count_classes(found.recipe), ipc=ipc)
        # INFER shows its real images, which are fewer than the files that it saves; FADRM's batches don't grow
        whole = getattr(plan, "originals", plan.ipc)
        whole = min(whole, adapter.scripts[found.recipe.recover.script].classes) if method == "fadrm" else whole
        slots = [Slot(index, batch) for index in range(plan.passes) for batch in range(plan.slots_per_pass)]
        assert {count for slot in slots for count in Counter(plan.slot(slot).labels).values()} == {whole}


def test_nothing_but_term_and_batches_differs_from_the_method() -> None:
    raw = read("sre2l", "cifar-100")
    printed, own, released = resolved(raw), resolved(raw, arm="baseline"), resolved(raw, preset=None)
    flags = dict(printed.recipe.recover.flags)
    # as many images in a batch as the release has
    assert flags.pop("batch-size") * 50 == released.recipe.recover.flags["batch-size"] * 10
    assert flags == {key: value for key, value in own.recipe.recover.flags.items() if key != "batch-size"}
    assert released.recipe.recover.flags["lr"] != flags["lr"]
    assert printed.regularizers["dire"] == {"variant": "paper", "multiplier": 1.0, "r_c": 1.0, "r_e": 0.01}
    assert as_file(own) == as_file(resolved(raw, arm="baseline", preset=None))


def test_the_control_has_the_printed_arms_batches() -> None:
    raw = read("sre2l", "cifar-100")
    assert resolved(raw, arm="control").recipe.recover == resolved(raw).recipe.recover
    assert resolved(raw, arm="control").regularizers == {}


def test_values_name_the_paper_and_weights_the_recipes_source() -> None:
    raw = read("sre2l", "cifar-100")
    origin = resolved(raw).origin
    assert origin["recover.plan.per_class"].startswith("arm dire; published: paper, Equation 1")
    assert origin["recover.flags.batch-size"].startswith("arm dire; chosen: ")
    assert origin["regularizers.dire.variant"].startswith("arm dire; published: paper, Equations 1–5")
    assert origin["regularizers.dire.r_e"] == f"arm dire; {raw['sources']['arms.dire.regularizers']}"
    assert origin["recover.start"] == f"recipe file; {raw['sources']['recover.start']}"
    particular = read("g-vbsm", "tiny-imagenet")
    source = f"arm dire; {particular['sources']['presets.as-printed']}"
    assert resolved(particular).origin["recover.plan.per_class"] == source


def test_the_command_line_wins_over_it() -> None:
    settings = ("recover.plan.per_class=5", "regularizers.dire.r_e=0.5")
    found = resolved(read("sre2l", "cifar-100"), settings=settings)
    assert found.recipe.recover.plan.per_class == 5  # type: ignore[union-attr]
    assert found.regularizers["dire"]["r_e"] == 0.5


def test_a_recipe_without_dire_has_no_such_preset() -> None:
    raw = read("sre2l", "cifar-100")
    assert preset_names(raw) == ["as-released", AS_PRINTED]
    del raw["arms"], raw["presets"]
    raw["sources"] = {key: text for key, text in raw["sources"].items() if not key.startswith(("arms", "presets"))}
    assert preset_names(raw) == []
    with pytest.raises(DirePlugError, match="no preset 'as-printed'; this recipe has none"):
        resolved(raw, arm="baseline")


def test_its_term_is_the_papers_with_sums() -> None:
    run = plan_run(Request("sre2l", recipe="cifar-100", arm="dire", preset=AS_PRINTED), dry=True)
    settings = run.regularizers["dire"]
    assert (settings["reduction"], settings["components"]) == ("sum", ["cd", "cdm", "edm"])
