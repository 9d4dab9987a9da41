"""Compare methods under one protocol: the same students, trained in the same way, on every method's images.

Each method's images are synthesized by its own recipe and engine. The sections of its recipe that judge them are
replaced by those of one recipe: `evaluate`, `measure` and `squeeze.independent`. Labels come from one network, trained
as that recipe's teacher is, with the dataset's own classes and normalisation (`squeeze.labeller`), by which students
also see every image. Each run is an ordinary one, so its synthesis is shared with the method's own run, whose students
follow its own protocol.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from dire_plug import plugins, ui
from dire_plug.errors import DirePlugError, MissingError, nearest
from dire_plug.executors.dispatch import Runner
from dire_plug.pipeline import Request, Run, plan_run
from dire_plug.pipeline.request import VENDOR, count_classes
from dire_plug.recipe import METHOD_ARMS, REAL_IMAGE_ARMS, SUBSET_ARMS, Recipe, recipe_names
from dire_plug.recipe.evaluate import CVDDSection, DeltSection, EvaluateSection, HardLabelsSection
from dire_plug.recipe.loading import Tree, flatten, is_recipe_file, mapping, merge, settings_tree, split_setting
from dire_plug.recipe.values import LEARNED
from dire_plug.results.arms import compare, comparison_requests
from dire_plug.results.comparison import Comparison
from dire_plug.sets.opened import DEFAULT_METHOD, read_recipe_name
from dire_plug.sets.rank import with_hard_labels
from dire_plug.stages.artefacts import INDEPENDENT, LABELLER

ALL = "all"
"""Stands for the methods that have the recipe."""


@dataclass(frozen=True)
class Protocol:
    """What judges the images of all methods.

    Attributes:
        recipe: METHOD/RECIPE that it comes from.
        section: how students are trained.
    """

    recipe: str
    section: EvaluateSection

    @property
    def labels(self) -> str:
        """`teacher` where the one network labels, else `none`."""
        return "none" if isinstance(self.section, HardLabelsSection) else "teacher"


@dataclass(frozen=True)
class MethodsPlan:
    """The requests of a comparison of methods.

    Attributes:
        own: method → the request for its own recipe, in its own protocol.
        real: the request for real images, in the one protocol: its `sections` replace each recipe's own.
        images: method → images of a class that it makes, where they aren't IPC.
        with_own: whether students are trained by each method's own protocol, too.
    """

    own: dict[str, Request]
    protocol: Protocol
    real: Request
    arms: tuple[str, ...]
    subsets: tuple[str, ...]
    seeds: int
    images: dict[str, int]
    with_own: bool = True

    @property
    def judged(self) -> dict[str, Request]:
        """Method → the request for its own images, in the one protocol."""
        return {name: replace(one, sections=self.real.sections) for name, one in self.own.items()}

    def requests(self) -> list[Request]:
        """Return the requests of all runs, each once.

        Raises:
            DirePlugError: see `compare`.
        """
        plan = partial(comparison_requests, seeds=self.seeds)
        each = [*(self.own.values() if self.with_own else ()), *self.judged.values()]
        found = [one for request in each for one in plan(request, arms=self.arms)]
        return found + (plan(self.real, arms=self.subsets) if self.subsets else [])


@dataclass(frozen=True)
class MethodsComparison:
    """The finished runs of every method.

    Attributes:
        judged: method → its arms, under the one protocol.
        own: the same under the method's own; empty where that wasn't asked for.
        real: subsets of real images under the one protocol; None without any.
        images: method → images of a class, where they aren't IPC.
    """

    judged: dict[str, Comparison]
    own: dict[str, Comparison]
    real: Comparison | None
    protocol: Protocol
    images: dict[str, int]

    @property
    def first(self) -> Comparison:
        """The first method's."""
        return next(iter(self.judged.values()))


def plan_methods(
    request: Request,
    methods: Sequence[str],
    *,
    arms: Sequence[str] = METHOD_ARMS,
    subsets: Sequence[str] = SUBSET_ARMS,
    seeds: int = 1,
    protocol: str | None = None,
    labels: str | None = None,
    with_own: bool = True,
    dry: bool = False,
) -> MethodsPlan:
    """Check what is to be compared.

    Args:
        request: the options of all; its `recipe` is that of methods which name none. `--set evaluate.…` changes the one
            protocol, every other setting all recipes.
        methods: METHOD, METHOD/RECIPE or a recipe file; `all` stands for the methods that have `request.recipe`.
        arms: that are synthesized.
        subsets: arms of real images.
        protocol: METHOD/RECIPE or a file; None: the first method's recipe.
        labels: `teacher` or `none`; None: as the protocol says.
        with_own: whether to train each method's own students, too.
        dry: whether methods whose code isn't vendored are planned, too.

    Raises:
        DirePlugError: a method, an arm or a recipe is unknown or can't run; recipes differ in dataset, size or IPC.
    """
    _check_arms(arms, subsets)
    judging = [one for one in request.settings if split_setting(one)[0][0] == "evaluate"]
    # the images that judge are the same for the methods' own students
    own = [one for one in request.settings if one not in judging or split_setting(one)[0][1:] == ("judge",)]
    request = replace(request, settings=tuple(own))
    named = _name(_read_methods(methods, request.recipe))
    requests = {name: replace(request, method=method, recipe=recipe) for name, (method, recipe) in named.items()}
    planned = _plan_each(requests, arms)
    found, real = _plan_protocol(next(iter(requests.values())), protocol, labels=labels, settings=judging)
    recipes = {name: run.recipe for name, run in planned.items()}
    judge = plan_run(replace(real, arm=SUBSET_ARMS[0])).recipe
    check_data(recipes if protocol is None else {**recipes, f"the protocol {found.recipe}": judge})
    if (absent := [one.adapter.name for one in planned.values() if not one.ready]) and not dry:
        message = f"{', '.join(absent)}: their own code isn't vendored; get it with: {VENDOR} {' '.join(absent)}"
        raise MissingError(message, command=VENDOR, names=tuple(absent))
    images = {name: count_images(run) for name, run in planned.items()}
    return MethodsPlan(
        requests,
        found,
        real,
        tuple(arms),
        tuple(subsets),
        seeds,
        {name: count for name, count in images.items() if count != recipes[name].ipc},
        with_own,
    )


def compare_methods(plan: MethodsPlan, *, runner: Runner | None = None) -> MethodsComparison:
    """Run every arm of every method with every seed, and the real images; finished runs are reused.

    Raises:
        DetachedError: jobs work for the runs, and the command doesn't wait for them.
        DirePlugError: see `compare`; or runs that were judged by different networks.
    """
    runner = runner or Runner()
    wanted = plan.requests()
    # all at once: an executor has work of every method from the start
    runner.prepare(wanted)
    run = partial(compare, seeds=plan.seeds, runner=runner, steps=ui.Steps(len(wanted)))
    own, judged = dict[str, Comparison](), dict[str, Comparison]()
    # method by method, so that what is finished can be looked at
    for name, request in plan.own.items():
        if plan.with_own:
            own[name] = run(request, arms=plan.arms, name=f"{name}, its own protocol")
        judged[name] = run(plan.judged[name], arms=plan.arms, name=name)
    real = run(plan.real, arms=plan.subsets, name="real images") if plan.subsets else None
    check_judges([*judged.values(), *([] if real is None else [real])])
    return MethodsComparison(judged, own, real, plan.protocol, plan.images)


def check_judges(comparisons: Sequence[Comparison]) -> None:
    """Raise for runs whose labels, or whose measures in I, come from different networks.

    Raises:
        DirePlugError: it names a run.
    """
    runs = [run for one in comparisons for of_arm in one.runs.values() for run in of_arm]
    first = runs[0]
    for run in runs:
        for network in (LABELLER, INDEPENDENT):
            if run.metrics["networks"][network] != first.metrics["networks"][network]:
                raise DirePlugError(
                    f"{first.folder.path} and {run.folder.path} were judged by different networks ({network}), as with "
                    "another version of torch; remove the older run, or use another --out"
                )


def count_images(run: Run) -> int:
    """Return how many images of a class a synthesis makes, which isn't IPC in every method."""
    recipe = run.recipe
    return run.adapter.plan(recipe.recover, classes=count_classes(recipe), ipc=recipe.ipc).ipc


def _check_arms(arms: Sequence[str], subsets: Sequence[str]) -> None:
    if not arms:
        raise DirePlugError(f"--arms: names no arm; name some, separated by commas, such as {','.join(METHOD_ARMS)}")
    if real := [arm for arm in arms if arm in REAL_IMAGE_ARMS]:
        raise DirePlugError(f"--arms {real[0]}: real images belong to no method; name them with --subsets")
    for arm in subsets:
        if arm not in REAL_IMAGE_ARMS:
            known = ", ".join(REAL_IMAGE_ARMS)
            raise DirePlugError(f"--subsets {arm}: no such choice{nearest(arm, REAL_IMAGE_ARMS)}; of {known}, or none")


def _read_methods(texts: Sequence[str], recipe: str) -> list[tuple[str, str]]:
    """Return method and recipe of each, once."""
    if list(texts) == [ALL]:
        if not (found := _with_recipe(recipe)):
            raise DirePlugError(f"--recipe {recipe}: no method has a recipe of this name; see `dire-plug list recipes`")
        return [(method, recipe) for method in found]
    if not texts:
        raise DirePlugError(f"METHODS: name some, separated by commas: {', '.join(plugins.known('methods'))}; or {ALL}")
    named = [
        read_recipe_name(one, option="METHODS") if "/" in one or is_recipe_file(one) else (one, recipe) for one in texts
    ]
    return list(dict.fromkeys((plugins.find_method(method), recipe) for method, recipe in named))


def _with_recipe(recipe: str) -> list[str]:
    """Return the methods that have a recipe of this name."""
    found = []
    for method in plugins.known("methods"):
        # a third party's broken package is no reason to hide the others
        with contextlib.suppress(DirePlugError):
            if recipe in recipe_names(plugins.load_adapter(method).recipes()):
                found.append(method)
    # its protocol is the one where none is named
    return sorted(found, key=lambda method: method != DEFAULT_METHOD)


def _name(named: Sequence[tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """Return a name for each: the method's, with the recipe's where the method stands there twice."""
    methods = [method for method, _ in named]
    names = [method if methods.count(method) == 1 else f"{method}/{Path(recipe).stem}" for method, recipe in named]
    return dict(zip(names, named, strict=True))


def _plan_each(requests: Mapping[str, Request], arms: Sequence[str]) -> dict[str, Run]:
    """Return name → the run of the first arm; all arms are checked, and all problems are told at once.

    Raises:
        DirePlugError: a line for each method that can't be run, in the order given.
    """
    planned, wrong = dict[str, Run](), list[str]()
    for name, request in requests.items():
        try:
            every = [plan_run(replace(request, arm=arm), dry=True) for arm in arms]
            planned[name] = every[0]
        except DirePlugError as error:
            wrong.append(str(error) if len(requests) == 1 else f"{name}: {error}")
    if wrong:
        raise DirePlugError("\n".join(wrong))
    return planned


def _plan_protocol(
    first: Request, named: str | None, *, labels: str | None, settings: Sequence[str]
) -> tuple[Protocol, Request]:
    """Return the protocol of a recipe, with what the command line changes in it, and the request for real images."""
    request = first
    if named is not None:
        method, recipe = read_recipe_name(named, option="--protocol")
        request = replace(first, method=method, recipe=recipe, preset=None)
    # an arm of real images is planned without upstream's code
    run = plan_run(replace(request, arm=SUBSET_ARMS[0]))
    section: EvaluateSection = run.recipe.evaluate
    if labels == "teacher" and isinstance(section, HardLabelsSection):
        raise DirePlugError(
            f"--labels teacher: the protocol of {_title(run)} trains with hard labels; name one that has a teacher "
            "label with --protocol METHOD/RECIPE, or leave --labels out"
        )
    if labels == "none" and not isinstance(section, HardLabelsSection):
        section = with_hard_labels(section)
    changes = mapping(settings_tree(settings), "evaluate")
    evaluate = merge(_alike_for_all(section), changes)
    judging = {
        "evaluate": evaluate,
        "measure": run.recipe.measure.model_dump(mode="json"),
        "squeeze.labeller": run.recipe.squeeze.teacher.model_dump(mode="json"),
        "squeeze.independent": run.recipe.squeeze.independent.model_dump(mode="json"),
    }
    sections = tuple(f"{key}={json.dumps(value)}" for key, value in judging.items())
    # again, which checks what the command line says
    request = replace(request, sections=sections)
    checked = plan_run(replace(request, arm=SUBSET_ARMS[0])).recipe.evaluate
    _check_section(checked)
    return Protocol(_title(run), checked), request


def _title(run: Run) -> str:
    return f"{run.adapter.name}/{run.recipe.name}"


def _alike_for_all(section: EvaluateSection) -> Tree:
    """Return a protocol as mapping in which nothing depends on the method whose images are used."""
    # files of pixels: the loops' tensors are normalised, each in its own way
    changes: Tree = {"source": "saved"}
    if isinstance(section, HardLabelsSection):
        changes["whiten"] = False
        if section.lr == LEARNED:
            changes["lr"] = section.lr_without
    if isinstance(section, DeltSection):
        changes["statistics"] = "teacher"
    if isinstance(section, CVDDSection):
        # one network labels
        changes["votes"] = []
    return section.model_dump(mode="json") | changes


def _check_section(section: EvaluateSection) -> None:
    if isinstance(section, HardLabelsSection):
        if section.source == "tensor":
            raise DirePlugError(
                "evaluate.source: the tensors of each loop are in a space of its own; with hard labels all methods' "
                "students read the saved files; leave it out"
            )
        if section.lr == LEARNED:
            raise DirePlugError("evaluate.lr: one protocol for all needs a number, not what one method's loop learned")


def check_data(recipes: Mapping[str, Recipe]) -> None:
    """Raise for recipes that differ in dataset, image size, number of real images or IPC.

    Raises:
        DirePlugError: a line for each key that differs, and the options that make them alike.
    """
    found = {name: {"ipc": one.ipc, **_data_of(one)} for name, one in recipes.items()}
    keys = dict.fromkeys(key for one in found.values() for key in one)
    lines, options = list[str](), list[str]()
    for key in keys:
        values: dict[Any, list[str]] = {}
        for name, one in found.items():
            values.setdefault(one.get(key), []).append(name)
        if len(values) > 1:
            each = [f"{'the default' if value is None else value} in {', '.join(who)}" for value, who in values.items()]
            lines.append(f"  {key}: {'; '.join(each)}")
            options.append(_option(key, {value: len(who) for value, who in values.items() if value is not None}))
    if lines:
        raise DirePlugError(
            "\n".join(["the methods' recipes differ in their data, so their students can't be compared:", *lines])
            + f"\ngive all the same, such as {' '.join(options)}; or leave methods out"
        )


def _data_of(recipe: Recipe) -> Tree:
    return flatten({"dataset": recipe.dataset.model_dump(mode="json")})


def _option(key: str, counts: Mapping[Any, int]) -> str:
    """Return the option that gives all recipes one value: that of most, or the greater one."""
    chosen = max(counts, key=lambda value: (counts[value], str(value).zfill(9)))
    return f"--ipc {chosen}" if key == "ipc" else f"--set {key}={chosen}"
